# shellcheck shell=bash
# Library of the test scripts: what to do on a machine that cannot run a check.

# Succeeds in strict mode (CI=true or PREWARMER_TEST_STRICT=1), in which a check that cannot run is
# a failure.
strict() { [[ ${CI:-} == true || ${CI:-} == 1 || ${PREWARMER_TEST_STRICT:-} == 1 ]]; }

# not_run CHECK REASON: reports a check that this machine cannot run. The reason names what to
# install. Fails in strict mode.
not_run() {
  echo "NOT RUN: $1: $2"
  ! strict || { echo "$1: FAILED: a check that cannot run is a failure, because CI=true or PREWARMER_TEST_STRICT=1 is set" >&2; return 1; }
}

# require_linux PROGRAM: ends the script on other systems than Linux.
require_linux() {
  [[ $(uname -s) == Linux ]] || {
    echo "$1: Linux is required, because the test cluster runs Linux programs and containers; this is $(uname -s). Use a Linux machine or virtual machine. \`make check\` runs on any system with Rust." >&2
    exit 1
  }
}

# install_packages PACKAGE...: installs Debian packages. Needs root and apt-get; prints the end of
# apt's output on failure.
install_packages() {
  if [[ $(id -u) != 0 ]] || ! command -v apt-get > /dev/null; then
    echo "install as root: apt-get install $*"
    return 1
  fi
  local log
  log=$(mktemp)
  if ! { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" > "$log" 2>&1 ||
    { apt-get update > "$log" 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" > "$log" 2>&1; }; }; then
    echo "apt-get could not install $*: $(tail -n 1 "$log")"
    rm -f "$log"
    return 1
  fi
  rm -f "$log"
}
