#!/usr/bin/env bash
# Runs the fuzzing client of Autobahn|Testsuite against a WebSocket echo endpoint. `run` in this folder starts lobbyd and calls it.
#
#   autobahn.sh [--deflate] [--cases '1.*,2.*'] [--exclude '9.*'] [--agent NAME] [--out DIR] [-v] ws://127.0.0.1:PORT/path
#   autobahn.sh --setup          installs the tool chain only
#
# The endpoint must echo every text/binary message unchanged, one client or many, and must accept
# messages of 16 MiB (section 9: raise a size limit for the run, or --exclude '9.*').
# Sections 1-7, 9, 10 always run; 12-13 (permessage-deflate) only with --deflate.
# Exit: 0 no failure; 1 a case FAILED (behaviour or close) or was NON-STRICT in 1-7, 9, 10, or was not OK in 12-13; 2 the run
# failed.
#
# The suite runs on Python 2 only. The tool chain is outside the repository: PyPy 2.7 from the debs of
# Debian bullseye (amd64), unpacked into a private root with apt's own client and key ring;
# autobahntestsuite 25.10.1 (its py2 wheel) and pinned dependencies from PyPI. ABTS_HOME (default:
# autobahn-testsuite in the user's cache folder) holds all of it, ~120 MB.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${ABTS_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/autobahn-testsuite}
deflate=0 verbose=0 cases='' exclude='' agent=server out='' url='' setup_only=0 install_only=0
while [ $# -gt 0 ]; do
  case $1 in
    --deflate) deflate=1 ;;
    --cases) cases=$2; shift ;;
    --exclude) exclude=$2; shift ;;
    --agent) agent=$2; shift ;;
    --out) out=$2; shift ;;
    --setup) setup_only=1 ;;
    --install) install_only=1 ;;        # one attempt, by this script itself
    -v) verbose=1 ;;
    -h|--help) sed -n '2,19p' "$0"; exit 0 ;;
    *) url=$1 ;;
  esac
  shift
done

lib=$home/system/usr/lib/x86_64-linux-gnu:$home/system/usr/lib/pypy/bin
py() { LD_LIBRARY_PATH=$lib PYTHONPATH=$home/site nice -n 19 "$home/system/usr/lib/pypy/bin/pypy-c" "$@"; }

setup() {
  local apt=$home/apt mirror opts
  mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,sources.d,debs} "$home/system" "$home/dl"
  : > "$apt/state/status"
  opts=(-qq -o Dir::State="$apt/state" -o Dir::State::status="$apt/state/status" -o Dir::Cache="$apt/cache"
        -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts="$apt/sources.d"
        -o Acquire::Languages=none -o Acquire::Retries=5 -o APT::Sandbox::User=root -o DPkg::Post-Invoke= -o APT::Update::Post-Invoke=)
  # the mirrors that apt on this machine uses, with the older suite
  for mirror in $(apt-get indextargets --format '$(REPO_URI)' | grep -v security | sort -u); do
    echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bullseye main" > "$apt/sources.list"
    if apt-get "${opts[@]}" update &&
       (cd "$apt/debs" && apt-get "${opts[@]}" download pypy pypy-lib pypy-dev libssl1.1 libffi7); then break; fi
  done
  for d in "$apt"/debs/*.deb; do dpkg -x "$d" "$home/system"; done
  # Python 2 needs the last pip, setuptools and wheel that ran on it; a current pip downloads them.
  python3 -c 'import ensurepip' 2>/dev/null || "$here/../install" python3-venv
  python3 -m venv "$home/venv"
  "$home/venv/bin/pip" download -q --no-deps -d "$home/dl" --python-version 27 --implementation py --abi none \
    --platform any --only-binary=:all: pip==20.3.4 setuptools==44.1.1 wheel==0.37.1
  local pip=(py "$home/dl/pip-20.3.4-py2.py3-none-any.whl/pip" --disable-pip-version-check
             --no-python-version-warning install -qq --no-compile --no-build-isolation --no-deps --target "$home/site")
  "${pip[@]}" "$home"/dl/setuptools-*.whl "$home"/dl/wheel-*.whl
  # first what Twisted's setup.py imports, then the rest
  "${pip[@]}" incremental==21.3.0 six==1.16.0
  "${pip[@]}" autobahntestsuite==25.10.1 autobahn==0.10.9 txaio==2.1.0 Twisted==20.3.0 \
    zope.interface==5.4.0 constantly==15.1.0 hyperlink==21.0.0 idna==2.10 typing==3.10.0.0 \
    Automat==20.2.0 attrs==21.4.0 PyHamcrest==1.9.0 Jinja2==2.11.3 MarkupSafe==1.1.1 \
    Werkzeug==1.0.1 klein==17.10.0
  : > "$home/site/zope/__init__.py"     # --target does not process the namespace .pth
  py "$here/wstest_run.py" --autobahnversion >/dev/null
  touch "$home/ready"
}
if [ $install_only = 1 ]; then
  rm -rf "$home"/{apt,system,dl,venv,site}     # remains of a failed attempt
  setup
  exit
fi
if [ ! -e "$home/ready" ]; then
  echo "autobahn.sh: installing the tool chain in $home" >&2
  "$here/../again" "$here/autobahn.sh" --install || { echo "autobahn.sh: the tool chain could not be installed" >&2; exit 2; }
fi
[ $setup_only = 1 ] && { py "$here/wstest_run.py" --autobahnversion; exit 0; }
[ -n "$url" ] || { echo "autobahn.sh: no URL" >&2; exit 2; }

out=${out:-$(mktemp -d -t autobahn.XXXXXX)}
run_cases() {  # FOLDER CASES EXCLUDED DEFLATE
  local out=$1
  rm -rf "$out"/{report,again-*}          # of an earlier run
  mkdir -p "$out"
  python3 - "$out" "$url" "$agent" "$2" "$3" "$4" > "$out/spec.json" <<'P'
import json, sys
out, url, agent, cases, exclude, deflate = sys.argv[1:]
c = cases.split(',') if cases else [f'{s}.*' for s in (1, 2, 3, 4, 5, 6, 7, 9, 10)]
if deflate == '1':
    c += ['12.*', '13.*']
json.dump({'outdir': out + '/report', 'servers': [{'agent': agent, 'url': url}], 'cases': c,
           'exclude-cases': exclude.split(',') if exclude else [], 'exclude-agent-cases': {}}, sys.stdout)
P
  if [ $verbose = 1 ]; then py "$here/wstest_run.py" -m fuzzingclient -s "$out/spec.json" 2>&1 | tee "$out/log" || true
  else py "$here/wstest_run.py" -m fuzzingclient -s "$out/spec.json" > "$out/log" 2>&1 || true; fi
  [ -s "$out/report/index.json" ] || { tail -20 "$out/log" >&2; echo "autobahn.sh: no report (is the server up at $url?)" >&2; exit 2; }
}
run_cases "$out" "$cases" "$exclude" $deflate
# A case fails if an answer takes a second, as it may on a busy machine. So a few that have failed are repeated, twice at most: a
# server that is wrong fails each time.
repeated=()
for again in 1 2; do
  bad=$(python3 "$here/autobahn_summary.py" --bad "$out/report" ${repeated[@]+"${repeated[@]}"})
  [ -n "$bad" ] && [ "$(tr , '\n' <<<"$bad" | wc -l)" -le 10 ] || break
  echo "autobahn.sh: repeating $bad" >&2
  run_cases "$out/again-$again" "$bad" "" 0
  repeated+=("$out/again-$again/report")
done
want=0                                   # all selected cases: 301 core cases, 216 for deflate
[ -n "$cases$exclude" ] || want=$((301 + 216 * deflate))
exec python3 "$here/autobahn_summary.py" "$out/report" $want ${repeated[@]+"${repeated[@]}"}
