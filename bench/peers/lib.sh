# Server on core 0, generator on core 1, both in the network namespace "perf" (a bare loopback: no iptables
# or conntrack rules in the path). Source it from a script in this folder.
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p data
ip netns list | grep -qw perf || { ip netns add perf && ip netns exec perf ip link set lo up; }
LG=${CARGO_TARGET_DIR:-$PWD/loadgen/target}/release
cargo build -q --release --manifest-path loadgen/Cargo.toml
NATS=${NATS:-$(command -v nats-server || echo venv/bin/nats-server)}
TERN=${TERN:-../../target/release/tern}
NS="ip netns exec perf"; SRV="$NS taskset -c 0"; GEN="$NS taskset -c 1 $LG/loadgen"
gen() { $GEN "$@"; }
waitport() { for _ in $(seq 150); do $NS bash -c "exec 3<>/dev/tcp/127.0.0.1/$1" 2>/dev/null && return 0; sleep 0.2; done; echo "port $1 did not open" >&2; return 1; }
stop() { kill "$1" 2>/dev/null; for _ in $(seq 50); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done; kill -9 "$1"; }
busy() { awk '/^cpu /{print $2+$3+$4+$7+$8}' /proc/stat; }
# Waits at most 20 s until nothing else burns CPU.
quiet() { local a b; for _ in $(seq 20); do a=$(busy); sleep 1; b=$(busy); [ $((b-a)) -lt "${1:-8}" ] && return 0; done; echo "(not quiet)"; }
# Start one peer; its pid is left in P.
start() { case $1 in
  floor) $SRV "$LG/echo_tokio" 7001 0 & P=$!; waitport 7001;;
  tern) rm -rf data/tern; $SRV "$TERN" standalone --data data/tern --long-link 0.0.0.0:7180 --http 127.0.0.1:7181 >data/tern.log 2>&1 & P=$!; waitport 7180;;
  mosquitto) rm -rf data/mosq; mkdir -p data/mosq; chmod 777 data/mosq; $SRV mosquitto -c mosq.conf >data/mosq.log 2>&1 & P=$!; waitport 1883;;
  redis) rm -rf data/appendonlydir; $SRV redis-server --port 6390 --bind 0.0.0.0 --protected-mode no --maxclients 19900 --dir "$PWD/data" --appendonly yes --appendfsync always --save "" --daemonize no >data/redis.log 2>&1 & P=$!; waitport 6390;;
  nats|natsjs|natsjs-always) rm -rf data/js; $SRV "$NATS" -c "$1.conf" >data/nats.log 2>&1 & P=$!; waitport 4222;;
  *) echo "unknown peer $1" >&2; return 1;; esac; }
# Protocol, port and further options of the generator.
proto() { case $1 in floor) echo "raw 7001";; tern) echo "tern 7180 --secret data/tern/token-secret";; mosquitto) echo "mqtt 1883";; redis) echo "redis 6390";; nats) echo "nats 4222";; natsjs*) echo "js 4222";; esac; }
