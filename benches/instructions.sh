#!/usr/bin/env bash
# Counts the instructions of the engine, and compares them with the counts recorded in benches/instructions.txt.
#
#   benches/instructions.sh            exit 0: as recorded; 1: a count is beyond the tolerance, or recorded counts are missing
#   benches/instructions.sh --bless    writes the new counts to the file
#
# Each scenario of benches/instructions.rs runs twice under callgrind; the difference between the long and the short run is the
# cost of the turns alone. Counts vary by 0.1 % between runs (one instruction of some 200 in an empty turn), because of the keys
# of the hash maps. The C library's copy routine, which depends on the processor, makes up to 0.7 %. A change elsewhere in the
# source can change the generated code by more. So the tolerance is 5 %, in both directions: a count below the recorded one
# must be blessed too, because a later increase would not be noticed. With another compiler, C library or kind of processor than
# those of the recorded counts the tolerance is 25 %.
#
# Installs Debian's valgrind with apt-get if it is missing.
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

cd "$here/.."
. benches/common/callgrind.sh
install_valgrind
program=$(program_of instructions)

# The C library chooses its copy routine by the processor that valgrind emulates.
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

# Other connections must cost no instructions.
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
[ -f "$kept" ] || { echo "instructions.sh: there is no $kept; create it with --bless" >&2; exit 1; }
tolerance=5
if [ "$(grep '^#' "$counted")" != "$(grep '^#' "$kept")" ]; then
  tolerance=25
  echo "the environment differs from the recorded one, so the tolerance is $tolerance %:"
  diff <(grep '^#' "$kept") <(grep '^#' "$counted") || true
fi
awk -v tolerance=$tolerance '
  /^#/ { next }
  NR == FNR { kept[$1] = $2; next }
  {
    if (!($1 in kept)) { printf "%-12s is not recorded\n", $1; failed = 1; next }
    change = 100 * ($2 / kept[$1] - 1)
    beyond = change > tolerance || change < -tolerance
    printf "%-12s %9d recorded %9d counted %+6.1f %%%s\n", $1, kept[$1], $2, change, beyond ? "  <- beyond " tolerance " %" : ""
    failed = failed || beyond
    delete kept[$1]
  }
  END {
    for (scenario in kept) { printf "%-12s is recorded and not counted\n", scenario; failed = 1 }
    exit failed
  }' "$kept" "$counted" || {
  echo "instructions.sh: the counts differ from benches/instructions.txt. If that is intended: benches/instructions.sh --bless" >&2
  exit 1
}
