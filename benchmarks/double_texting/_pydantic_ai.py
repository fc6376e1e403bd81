"""pydantic-ai, as a program: load, run, save around its ConversationStore; variants `once` and `again`.

It ships no store on disk: this one is its five primitives on SQLite, entries and record written together, as its
documentation asks. `again` does what that says of a conflict: load again and retry, model and all.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.double_texting._texting import SESSION, Texting, What, database, main

_ai: Any = importlib.import_module("pydantic_ai")  # typed where it is installed: not where this is checked
_function: Any = importlib.import_module("pydantic_ai.models.function")
_store: Any = importlib.import_module("pydantic_ai.conversation_store")
_conversation: Any = importlib.import_module("pydantic_ai.conversation")
_TypeAdapter: Any = importlib.import_module("pydantic").TypeAdapter


class Conversations(_store.ConversationStore):  # type: ignore[misc] # its base is not typed here
    """A store on SQLite: one row a conversation, one a message."""

    def __init__(self, file: Path) -> None:
        """Make the tables where they do not exist."""
        self._file = file
        self._records = _TypeAdapter(_store.ConversationRecord)
        self._entries = _TypeAdapter(_store.ConversationEntry)
        with database(self._file) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS records (id TEXT PRIMARY KEY, revision TEXT, body BLOB)")
            connection.execute("CREATE TABLE IF NOT EXISTS entries (id TEXT PRIMARY KEY, body BLOB)")

    async def read_record(self, conversation_id: str) -> Any:
        """Return a conversation's record, or None."""
        with database(self._file) as connection:
            row = connection.execute("SELECT body FROM records WHERE id = ?", (conversation_id,)).fetchone()
        return self._records.validate_json(row[0]) if row is not None else None

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> Sequence[Any]:
        """Refuse: nobody lists them here."""
        raise NotImplementedError

    async def write_record(
        self, record: Any, *, new_entries: Sequence[Any] = (), expected_revision: str | None
    ) -> None:
        """Store a record and what it adds together, unless the stored one has another revision."""
        with database(self._file) as connection:
            connection.execute("BEGIN IMMEDIATE")
            select = "SELECT revision FROM records WHERE id = ?"
            row = connection.execute(select, (record.conversation_id,)).fetchone()
            if (row[0] if row is not None else None) != expected_revision:
                raise _store.ConversationConflict(record.conversation_id)
            entries = [(entry.id, self._entries.dump_json(entry)) for entry in new_entries]
            connection.executemany("INSERT INTO entries VALUES (?, ?)", entries)
            found = (record.conversation_id, record.revision, self._records.dump_json(record))
            connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", found)

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Refuse: nobody deletes them here."""
        raise NotImplementedError

    async def read_entry(self, entry_id: str) -> Any:
        """Return one message."""
        with database(self._file) as connection:
            (body,) = connection.execute("SELECT body FROM entries WHERE id = ?", (entry_id,)).fetchone()
        return self._entries.validate_json(body)


def _texts(messages: Sequence[Any]) -> list[str]:
    return [part.content for message in messages for part in message.parts]


async def send(texting: Texting, variant: str) -> None:
    """Send every message at once."""
    store = Conversations(texting.folder / "conversations.sqlite")
    texting.note(What.SETTINGS, "a store written for it, WAL, synchronous=FULL")

    async def answer(messages: Sequence[Any], _: object) -> Any:
        return _ai.ModelResponse(parts=[_ai.TextPart(await texting.model(_texts(messages)))])

    clerk = _ai.Agent(_function.FunctionModel(answer))

    async def run(text: str) -> str:
        conversation = await store.load(SESSION) or _conversation.Conversation(conversation_id=SESSION)
        result = await clerk.run(text, conversation=conversation)
        await store.save(result)
        return str(result.output)

    async def run_again(text: str) -> str:
        while True:
            try:
                return await run(text)
            except _store.ConversationConflict:
                continue

    await texting.send_all(run_again if variant == "again" else run)


async def look(texting: Texting, _: str) -> None:
    """Read the conversation."""
    conversation = await Conversations(texting.folder / "conversations.sqlite").load(SESSION)
    texting.keep(_texts(conversation.messages) if conversation is not None else [])


if __name__ == "__main__":
    main(send, look)
