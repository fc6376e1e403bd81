// The same worker in JavaScript, for Node.
const { appendFileSync } = require("node:fs");
const lines = require("node:readline").createInterface({ input: process.stdin });
const say = (type, fields) => process.stdout.write(JSON.stringify({ v: 1, type, ...fields }) + "\n");

let incarnation, turn, cents;
lines.on("line", (line) => {
  const said = JSON.parse(line);
  switch (said.type) {
    case "hello":
      incarnation = said.incarnation;
      return say("ready", { incarnation });
    case "ping":
      return say("pong", { incarnation, n: said.n });
    case "turn":
      turn = said.turn;
      return say("call", { turn, id: "price", tool: "price_of", arguments: { order: said.input } });
    case "answer":
      if (said.id === "pay") return say("result", { turn, value: said.result });
      cents = said.result;
      return say("step", { turn, id: "pay", name: "pay", effect: "effectful", arguments: { cents } });
    case "go":
      appendFileSync(process.env.PAID, `${said.idempotency_key} ${cents}\n`); // stands for a bank
      return say("did", { turn, id: "pay", result: `paid ${cents}` });
    case "failed":
    case "refused":
      return say("error", { turn, error: said.error, message: said.message, of: said.id });
    case "cancel":
      return say("error", { turn, error: "Cancelled" });
    case "bye":
      process.exit(0);
  }
});
