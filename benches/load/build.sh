#!/usr/bin/env bash
# Builds what is not built yet: the load generator and the peers, all from package registries.
# A peer that does not build is named and left out; without the load generator nothing works.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers=$here/peers
peer() {  # peer NAME: runs build_NAME
  "build_${1//-/_}" || echo "build.sh: peer $1 was not built" >&2
}
build_rawbound() {
  [ "$peers/rawbound/rawbound" -nt "$peers/rawbound/rawbound.c" ] ||
    gcc -O3 -o "$peers/rawbound/rawbound" "$peers/rawbound/rawbound.c"
}
build_uws() {
  [ "$peers/uws/uws" -nt "$peers/uws/server.c" ] && return
  ldconfig -p | grep -q libuv.so.1 || apt-get install -y libuv1 >/dev/null || return
  "$peers/uws/build.sh"
}
build_tokio_tungstenite() { (cd "$peers/tokio-tungstenite" && cargo build -q --release --locked); }
build_fastwebsockets() { (cd "$peers/fastwebsockets" && cargo build -q --release --locked); }
build_node_ws() {
  [ -d "$peers/node-ws/node_modules/ws" ] || (cd "$peers/node-ws" && npm ci --silent)
}
build_fastapi() {
  [ -x "$peers/fastapi/.venv/bin/uvicorn" ] && return
  python3 -m venv "$peers/fastapi/.venv" && "$peers/fastapi/.venv/bin/pip" -q install -r "$peers/fastapi/requirements.txt"
}
(cd "$here/loadgen" && cargo build -q --release --locked)
for name in rawbound uws tokio-tungstenite fastwebsockets node-ws fastapi; do peer "$name"; done
