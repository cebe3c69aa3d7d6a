#!/usr/bin/env bash
# Measures lobbyd beside the peers and prints the tables.
#   benches/load/run.sh [bench.py options]
# e.g. benches/load/run.sh --reps 5 --jsonl runs.jsonl
#      SCENARIOS=fanout-w4,tick-300 PEERS=uws,rawbound-batch benches/load/run.sh
#      LOBBYD=path/to/lobbyd benches/load/run.sh        # another binary than target/release/lobbyd
set -euo pipefail
case "${1:-}" in -h|--help) sed -n '2,6p' "$0"; exit 0 ;; esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ -z "${LOBBYD:-}" ]; then
  (cd "$root" && cargo build --quiet --release --locked)
  LOBBYD=$root/target/release/lobbyd
fi
"$here/build.sh"
# The scenarios open 10,000 connections, put 5,000 members into a lobby, send as fast as they can and give a receiver
# megabytes to catch up with; the peers have no limits at all.
common="$LOBBYD --listen 127.0.0.1:{port} --log warn --max-connections 20000 --max-per-lobby unlimited --max-lobbies unlimited --max-pending 4096 --max-closing 4096 --max-outbound-bytes 16MiB --messages-per-second unlimited --bytes-per-second unlimited --control-per-second unlimited ${LOBBYD_ARGS:-}"
peers=${PEERS:-uws,tokio-tungstenite,fastwebsockets,node-ws,fastapi,rawbound-now,rawbound-batch}
scenarios=${SCENARIOS:-fanout-w1,fanout-w4,fanout-all,tick-100,tick-300,relay,big1000,idle,storm}
# `verbatim` passes messages on unchanged, as the peers do: the envelope of the stock `relay` is work that they do not
# do, so it stands in a line of its own.
exec python3 "$here/bench.py" --server "lobbyd=$common --app verbatim" --enveloped "lobbyd-relay=$common --app relay" --echo-server "lobbyd=$common --app echo" \
  --peers "$peers" --scenarios "$scenarios" "$@"
