#!/usr/bin/env bash
# make test: runs all tests, those without a cluster first, then the suites on real clusters, each
# on its own. With 4 processors or more, the last suites run in parallel. A check that this machine
# cannot run is listed at the end as NOT RUN; with CI=true or PREWARMER_TEST_STRICT=1 it is a
# failure (environment.sh).
# usage: run.sh [SUITE...]   (default: all)
#   SUITE                   unit, alerts, e2e, latency, hostile, installed, plugin or clients
#   PREWARMER_TEST_LOGS     directory for the output of each suite (default: target/test-logs)
#   PREWARMER_TEST_PROFILE  cargo profile of the images and the packed plugin (default: quick)
set -euo pipefail
suites=(unit alerts e2e latency hostile installed plugin clients)
cd "$(dirname "$0")/.."
# shellcheck source=tests/environment.sh
. tests/environment.sh
require_linux test
begun=$SECONDS
say() { echo "test: $*"; }
chosen=("$@")
for name in "$@"; do
  [[ " ${suites[*]} " == *" $name "* ]] || { say "unknown suite $name: expected ${suites[*]}"; exit 2; }
done
wanted() { [[ ${#chosen[@]} == 0 || " ${chosen[*]} " == *" $1 "* ]]; }
for tool in cargo rustc go openssl curl python3 git; do
  command -v "$tool" > /dev/null || { say "$tool is required, but is not on the PATH"; exit 1; }
done
mkdir -p "${PREWARMER_TEST_LOGS:-target/test-logs}"
logs=$(cd "${PREWARMER_TEST_LOGS:-target/test-logs}" && pwd)
for name in "${suites[@]}"; do ! wanted "$name" || rm -f "$logs/$name.log"; done
# Tests that need a cluster mostly wait for it. Two threads per processor keep the machine busy: on
# 2 cores all of tests/e2e takes 384 s, and 664 s with one thread per processor.
export RUST_TEST_THREADS=$((2 * $(nproc)))

failed_suites=()
report() { # report NAME SINCE CODE
  if [[ $3 == 0 ]]; then
    say "$1: passed in $((SECONDS - $2)) s"
  else
    failed_suites+=("$1")
    say "$1: FAILED after $((SECONDS - $2)) s; its output: $logs/$1.log"
  fi
}
suite() { # suite NAME COMMAND...: runs the command, and copies its output to a file
  local name=$1 since=$SECONDS code=0; shift
  wanted "$name" || return 0
  say "$name"
  "$@" 2>&1 | tee "$logs/$name.log" || code=$?
  report "$name" "$since" "$code"
  [[ $code == 0 ]] || finish
}
parallel() { # parallel NAME COMMAND [NAME COMMAND...]: suites at the same time, output afterwards
  local since=$SECONDS names=() pids=() index code
  while (($#)); do
    if wanted "$1"; then
      bash -c "$2" > "$logs/$1.log" 2>&1 &
      names+=("$1") pids+=($!)
    fi
    shift 2
  done
  say "in parallel: ${names[*]}"
  for index in "${!pids[@]}"; do
    code=0
    wait "${pids[index]}" || code=$?
    cat "$logs/${names[index]}.log"
    report "${names[index]}" "$since" "$code"
  done
  [[ ${#failed_suites[@]} == 0 ]] || finish
}
failures() { # failures LOG: prints what failed; the logs of the cluster's components follow it in the file
  local end
  end=$(grep -nEm 1 "^[a-z0-9-]+ has ended$|^the cluster's logs are in" "$1" | cut -d: -f1 || true)
  end=$((${end:-$(wc -l < "$1")}))
  echo "  the errors in $1:"
  head -n "$end" "$1" | grep -nE 'panicked at|FAILED|^error|^Error|: failed|AssertionError' | tail -n 20 | cut -c1-300 | sed 's/^/    /' || true
  echo "  its last lines before the logs of the cluster:"
  head -n "$end" "$1" | tail -n 15 | cut -c1-300 | sed 's/^/    /'
}
finish() { # ends with the summary: fails, or succeeds with the argument `passed`
  local missing name
  for name in "${failed_suites[@]}"; do say "what failed in $name:"; failures "$logs/$name.log"; done
  missing=$(for name in "${suites[@]}"; do ! wanted "$name" || cat "$logs/$name.log" 2> /dev/null; done | grep -oE '(^|[ :])NOT RUN: .*' | sed -E 's/^[ :]*//' | sort -u || true)
  if [[ -n $missing ]]; then say "not run on this machine:"; echo "$missing"; fi
  if [[ ${1:-} != passed ]]; then
    say "FAILED, after $((SECONDS - begun)) s: see above"
  elif [[ -n $missing ]] && strict; then
    say "FAILED, after $((SECONDS - begun)) s: a check that cannot run is a failure, because CI=true or PREWARMER_TEST_STRICT=1 is set"
  else
    say "all passed, in $((SECONDS - begun)) s"
    exit
  fi
  exit 1
}

suite unit make -s test-unit
suite alerts bash tests/prometheus/rules.sh
if [[ ${#chosen[@]} -gt 0 && " ${chosen[*]} " =~ ^(\ unit|\ alerts)*\ $ ]]; then finish passed; fi
say "building the programs of the test cluster, if they are not built yet"
tests/cluster/cluster build > /dev/null
say "building the tests"
cargo build --locked --workspace --all-targets
suite e2e tests/cluster/cluster with --fake-nodes 120 --real-nodes 2 -- \
  cargo test --locked --test e2e --test cluster_test -- --show-output --skip hostile:: --skip large_and_slow_reviews
# These assert latency, and run without other tests.
suite latency tests/cluster/cluster with --fake-nodes 10 -- cargo test --locked --test e2e -- --show-output large_and_slow_reviews
suite hostile cargo test --locked --test e2e -- --show-output hostile::
# The chart, the packed plugin by krew, and the SDKs, web pages and examples against a server.
# The first has real nodes and runs alone: their network interfaces come and go, and Chromium aborts
# requests whenever an interface of the machine changes (ERR_NETWORK_CHANGED).
suite installed tests/installed.sh
last=(
  plugin "tests/cluster/cluster with --fake-nodes 5 -- tests/plugin.sh"
  clients "tests/cluster/cluster with --fake-nodes 120 -- tests/clients.sh"
)
if (($(nproc) >= 4)); then
  parallel "${last[@]}"
else
  for ((index = 0; index < ${#last[@]}; index += 2)); do suite "${last[index]}" bash -c "${last[index + 1]}"; done
fi
finish passed
