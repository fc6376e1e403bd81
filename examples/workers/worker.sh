#!/bin/sh
# The same worker in POSIX shell: what it says and hears is one JSON object a line.
field() { printf '%s\n' "$line" | sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }

while read -r line; do
    case $(field type) in
        hello) incarnation=$(field incarnation)
            echo "{\"v\":1,\"type\":\"ready\",\"incarnation\":$incarnation}" ;;
        ping) echo "{\"v\":1,\"type\":\"pong\",\"incarnation\":$incarnation}" ;;
        turn) turn=$(field turn)
            echo "{\"v\":1,\"type\":\"call\",\"turn\":$turn,\"id\":\"price\",\"tool\":\"price_of\",\"arguments\":{\"order\":\"$(field input)\"}}" ;;
        answer) case $(field id) in
            price) cents=$(field result)
                echo "{\"v\":1,\"type\":\"step\",\"turn\":$turn,\"id\":\"pay\",\"name\":\"pay\",\"effect\":\"effectful\",\"arguments\":{\"cents\":$cents}}" ;;
            pay) echo "{\"v\":1,\"type\":\"result\",\"turn\":$turn,\"value\":\"$(field result)\"}" ;;
            esac ;;
        go) echo "$(field idempotency_key) $cents" >>"$PAID" # stands for a bank
            echo "{\"v\":1,\"type\":\"did\",\"turn\":$turn,\"id\":\"pay\",\"result\":\"paid $cents\"}" ;;
        failed | refused) echo "{\"v\":1,\"type\":\"error\",\"turn\":$turn,\"error\":\"$(field error)\",\"of\":\"$(field id)\"}" ;;
        cancel) echo "{\"v\":1,\"type\":\"error\",\"turn\":$turn,\"error\":\"Cancelled\"}" ;;
        bye) exit 0 ;;
    esac
done
