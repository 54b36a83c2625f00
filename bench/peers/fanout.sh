#!/usr/bin/env bash
# One sender to RECV online receivers, the most that a group of Tern takes: ./fanout.sh mosquitto tern nats
. "$(dirname "$0")/lib.sh"
for peer in "$@"; do
  read -r pr port opts <<<"$(proto "$peer")"; start "$peer"; quiet 10
  for q in $(case $pr in mqtt) echo 0 1;; tern) echo 1;; *) echo 0;; esac); do
    gen fanout --proto $pr --port $port $opts --pids $P --recv "${RECV:-199}" --window 4 --warm 3 --secs "${SECS:-5}" --label "$peer qos$q fanout${RECV:-199}" --run f$q --qos $q
  done
  stop $P
done
