#!/usr/bin/env bash
# Counts the instructions of what the engine does, and compares them with those kept in benches/instructions.txt.
#
#   benches/instructions.sh            exit 0: as kept; 1: a figure is beyond the tolerance, or kept figures are missing
#   benches/instructions.sh --bless    keeps what it counts
#
# Each scenario of benches/instructions.rs runs twice under callgrind, and the difference between the long and the short
# run is that of the turns alone. From run to run counts vary by 0.1 % (one instruction of some 200 where nothing happens),
# from the keys of the hash maps; the C library's way of copying, which depends on the processor, makes up to 0.7 %. What the
# compiler makes of a change elsewhere can make more, so 5 % is a change. Fewer than kept is one too, because the next loss
# would hide in it: bless it. Under another compiler, C library or kind of processor than the figures were kept with, only
# 25 % counts.
#
# Installs Debian's valgrind by apt-get where there is none.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
kept=$here/instructions.txt
bless=false
case ${1:-} in
  '') ;;
  --bless) bless=true ;;
  -h|--help) sed -n '2,15p' "$0"; exit 0 ;;
  *) echo "instructions.sh: unknown option $1" >&2; exit 2 ;;
esac

install() {  # Debian packages
  echo "instructions.sh: installing $*" >&2
  local sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
command -v valgrind >/dev/null || install valgrind

cd "$here/.."
program=$(cargo bench --quiet --locked --bench instructions --no-run --message-format=json-render-diagnostics |
  sed -nE '/"kind":\["bench"\]/s/.*"executable":"([^"]*)".*/\1/p' | tail -n 1)
[ -x "$program" ] || { echo "instructions.sh: cargo did not say where the program is" >&2; exit 2; }

# Which of its variants the C library takes for copying depends on the processor, as valgrind shows it.
simd=$(grep -qw avx2 /proc/cpuinfo && echo avx2 || echo 'no avx2')
environment=$(printf '# %s\n' "$(rustc --version)" "$(ldd --version | head -n 1)" "$(valgrind --version), $(uname -m) $simd")

count() {  # SCENARIO TURNS: prints instructions and deliveries
  local log
  log=$(mktemp)
  if ! deliveries=$(valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>"$log" </dev/null); then
    cat "$log" >&2
    rm "$log"
    return 1
  fi
  printf '%s %s\n' "$(sed -nE 's/.*Collected : ([0-9]+).*/\1/p' "$log")" "$deliveries"
  rm "$log"
}

counted=$(mktemp)
trap 'rm -f "$counted"' EXIT
{
  echo "# Instructions of the engine for each turn and for each delivery. Written by benches/instructions.sh --bless."
  echo "$environment"
  "$program" --list | while read -r scenario turns; do
    short=$(count "$scenario" "$turns")
    long=$(count "$scenario" $((3 * turns)))
    awk -v scenario="$scenario" -v turns=$((2 * turns)) -v short="$short" -v long="$long" 'BEGIN {
      split(short, s); split(long, l)
      deliveries = l[2] - s[2]
      printf "%-12s %9.0f %7s\n", scenario, (l[1] - s[1]) / turns, deliveries ? sprintf("%.1f", (l[1] - s[1]) / deliveries) : "-"
    }'
  done
} > "$counted"

# Other connections cost no instructions.
awk '{ turn[$1] = $2 } END {
  more = turn["crowd"] / turn["alone"] - 1
  printf "a message with 20,000 connections: %+.1f %% instructions against 8 connections\n", 100 * more
  exit more > 0.02
}' "$counted" || { echo "instructions.sh: other connections cost instructions" >&2; exit 1; }

if $bless; then
  cp "$counted" "$kept"
  cat "$kept"
  exit
fi
[ -f "$kept" ] || { echo "instructions.sh: there is no $kept; --bless makes it" >&2; exit 1; }
tolerance=5
if [ "$(grep '^#' "$counted")" != "$(grep '^#' "$kept")" ]; then
  tolerance=25
  echo "counted in another environment than kept, so up to $tolerance % is taken:"
  diff <(grep '^#' "$kept") <(grep '^#' "$counted") || true
fi
awk -v tolerance=$tolerance '
  /^#/ { next }
  NR == FNR { kept[$1] = $2; next }
  {
    if (!($1 in kept)) { printf "%-12s is not kept\n", $1; failed = 1; next }
    change = 100 * ($2 / kept[$1] - 1)
    beyond = change > tolerance || change < -tolerance
    printf "%-12s %9d kept %9d counted %+6.1f %%%s\n", $1, kept[$1], $2, change, beyond ? "  <- beyond " tolerance " %" : ""
    failed = failed || beyond
    delete kept[$1]
  }
  END {
    for (scenario in kept) { printf "%-12s is kept and not counted\n", scenario; failed = 1 }
    exit failed
  }' "$kept" "$counted" || {
  echo "instructions.sh: not what benches/instructions.txt keeps. If that is as it should be: benches/instructions.sh --bless" >&2
  exit 1
}
