#!/usr/bin/env bash
# Builds ./uws on the library in PyPI's socketify (prebuilt uWebSockets with its C API).
# Needs libuv1 (apt-get install libuv1) and gcc.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p lib
if [ ! -f lib/libsocketify_linux_amd64.so ]; then
  pip download -q --no-deps --no-binary :all: -d lib socketify==0.0.31
  tar xzf lib/socketify-0.0.31.tar.gz -C lib --strip-components=3 socketify-0.0.31/src/socketify/libsocketify_linux_amd64.so
fi
gcc -O3 -o uws server.c -Llib -l:libsocketify_linux_amd64.so -Wl,-rpath,"$PWD/lib"
