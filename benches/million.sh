#!/usr/bin/env bash
# Instructions and cache misses of the operations of benches/million.rs with 1,000,000 connections, relative to 1,000.
#
#   benches/million.sh [CONNECTIONS]   exit 0: no operation costs more than 1.1 times the instructions; 1: one does
#
# Callgrind simulates the caches: 32 KiB of level 1 for data and for instructions, and 2 MiB behind them, each line 64 bytes. Setting
# up a million connections takes it some five minutes, and a gigabyte of memory.
#
# Installs Debian's valgrind with apt-get if it is missing.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
case ${1:-} in
  -h|--help) sed -n '2,9p' "$0"; exit 0 ;;
esac
few=1000
many=${1:-1000000}

cd "$here/.."
. benches/common/callgrind.sh
install_valgrind
program=$(program_of million)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Prints, for each operation: its name, and instructions, misses of level 1 and misses of the last level for each operation.
count() {  # CONNECTIONS
  valgrind --tool=callgrind --callgrind-out-file="$scratch/out" --cache-sim=yes --I1=32768,8,64 --D1=32768,8,64 \
    --LL=2097152,16,64 --toggle-collect='million::measured::*' "$program" "$1" >"$scratch/operations" 2>"$scratch/log" ||
    { cat "$scratch/log" >&2; return 1; }
  # Columns: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw, each followed by a share in brackets.
  callgrind_annotate --inclusive=yes --threshold=100 --auto=no "$scratch/out" | sed -E 's/\([^)]*\)//g; s/,//g' | awk '
    NR == FNR { operations[$1] = $2; next }
    match($0, /million::measured::[a-z]+/) {
      name = substr($0, RSTART + 19, RLENGTH - 19)
      if (name in operations && !(name in seen)) {
        seen[name] = 1
        n = operations[name]
        printf "%s %.1f %.2f %.2f\n", name, $1 / n, ($4 + $5 + $6) / n, ($7 + $8 + $9) / n
      }
    }' "$scratch/operations" -
}

count "$few" >"$scratch/few"
count "$many" >"$scratch/many"
awk -v few="$few" -v many="$many" '
  BEGIN { printf "%-10s %21s %7s %19s %19s\n", "", "instructions", "ratio", "level 1 misses", "last level misses" }
  NR == FNR { instructions[$1] = $2; first[$1] = $3; last[$1] = $4; next }
  {
    ratio = $2 / instructions[$1]
    printf "%-10s %10.0f %10.0f %7.3f %9.1f %9.1f %9.1f %9.1f%s\n", $1, instructions[$1], $2, ratio, first[$1], $3, last[$1], $4,
      (ratio > 1.1) ? "  <- more than 1.1" : ""
    failed = failed || (ratio > 1.1)
    rows++
  }
  END {
    printf "for each operation, with %d and with %d connections\n", few, many
    if (rows != 5) { print "million.sh: an operation is missing" > "/dev/stderr"; failed = 1 }
    exit failed
  }' "$scratch/few" "$scratch/many"
