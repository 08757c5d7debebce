#!/usr/bin/env bash
# Checks the alerting rules and runs their tests with promtool, and checks that each alert has a
# run-book and its two tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/environment.sh
. tests/environment.sh
if ! bin=$(bash tests/prometheus/get.sh 2>&1); then
  not_run "the tests of the alerts" "$bin"
  exit
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp deploy/chart/files/rules.yaml tests/prometheus/rules_test.yaml "$work"
"$bin/promtool" check rules "$work/rules.yaml"
(cd "$work" && "$bin/promtool" test rules rules_test.yaml)
sed -n 's/.*- alert: //p' "$work/rules.yaml" | while read -r alert; do
  grep -qx "## $alert" docs/alerts.md || { echo "docs/alerts.md has no run-book for $alert"; exit 1; }
  for test in fires below; do
    grep -qx "  - name: '$alert: $test'" "$work/rules_test.yaml" || { echo "rules_test.yaml has no test '$alert: $test'"; exit 1; }
  done
done
