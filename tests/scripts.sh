#!/usr/bin/env bash
# Checks shell scripts with shellcheck and workflow files with actionlint (built by Go), and runs the
# tests of the scripts that make the tables of docs/measurements.md and docs/effect.md. A check that
# cannot run is reported as NOT RUN (environment.sh).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/environment.sh
. tests/environment.sh
mapfile -t scripts < <({ git ls-files '*.sh'; printf '%s\n' .ci/run tests/cluster/cluster; } | sort -u)
for script in "${scripts[@]}"; do bash -n "$script"; done
why=$(command -v shellcheck > /dev/null || install_packages shellcheck) || true
if command -v shellcheck > /dev/null; then
  # build.sh uses variables of the script that sources it (SC2154). It must not contain a directive
  # for that, because its text is part of the key of the cache of built programs.
  build=tests/cluster/lib/build.sh
  others=()
  for script in "${scripts[@]}"; do [[ $script == "$build" ]] || others+=("$script"); done
  shellcheck --external-sources --severity=style "${others[@]}"
  shellcheck --external-sources --severity=style --exclude=SC2154 "$build"
  echo "shellcheck: ${#scripts[@]} scripts, no findings"
else
  not_run "shellcheck" "$why (the scripts were parsed only)"
fi
actionlint=github.com/rhysd/actionlint/cmd/actionlint@v1.7.7
if command -v go > /dev/null; then
  GOFLAGS=-mod=mod go run "$actionlint" -shellcheck= -pyflakes= .github/workflows/*.yaml
  echo "actionlint: no findings"
else
  not_run "actionlint" "Go is required to build it (Debian package golang, or go.dev)"
fi
(cd tests/measure && python3 -B -m unittest -q test_tables)
echo "tests of tests/measure/tables.py: passed"
(cd tests/effect && python3 -B -m unittest -q test_effect_tables)
echo "tests of tests/effect/effect_tables.py: passed"
