#!/usr/bin/env bash
# One-to-one chat, 100-byte bodies: one pair, 500 pairs with windows 1 and 32, 500 pairs at a fixed rate: ./chat.sh floor mosquitto tern
. "$(dirname "$0")/lib.sh"
for peer in "$@"; do
  read -r pr port opts <<<"$(proto "$peer")"; start "$peer"; quiet 10
  chat() { gen chat --proto $pr --port $port $opts --pids $P --warm 2 --secs "${SECS:-5}" "$@"; }
  chat --pairs 1 --window 1 --label "$peer 1pair" --run q
  for r in $(seq "${REPEATS:-2}"); do
    chat --pairs 500 --window 1 --label "$peer 500pairs" --run w1-$r
    chat --pairs 500 --window 32 --label "$peer 500pairs" --run w32-$r
    chat --pairs 500 --rate "${RATE:-5000}" --label "$peer 500pairs at ${RATE:-5000}/s" --run r-$r
  done
  stop $P
done
