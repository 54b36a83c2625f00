#!/usr/bin/env bash
# Idle links and heartbeats: ./idle.sh floor mosquitto tern nats redis
. "$(dirname "$0")/lib.sh"
for peer in "$@"; do
  read -r pr port opts <<<"$(proto "$peer")"; start "$peer"; quiet 10
  gen idle --proto $pr --port $port $opts --pids $P --conns "${CONNS:-19500}" --ndst 2 --hb-rate 10000 --warm 2 --secs 6 --label "$peer" --run i $([ "$peer" = floor ] && echo --size 16)
  stop $P
done
