# What the scripts that count with callgrind share. They source this file in the root of the repository.

# Installs Debian's valgrind with apt-get if it is missing.
install_valgrind() {
  command -v valgrind >/dev/null && return
  tests/install valgrind
}

# Builds a bench and prints the path of its program.
program_of() {  # BENCH
  local program
  program=$(cargo bench --quiet --locked --bench "$1" --no-run --message-format=json-render-diagnostics |
    sed -nE '/"kind":\["bench"\]/s/.*"executable":"([^"]*)".*/\1/p' | tail -n 1)
  [ -x "$program" ] || { echo "$(basename "$0"): cargo did not report the path of the program" >&2; return 2; }
  echo "$program"
}
