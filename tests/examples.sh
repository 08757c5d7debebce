#!/usr/bin/env bash
# Runs each example of docs/clients.md unmodified. Requires the variables that tests/clients.sh
# exports.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
page=docs/clients.md

block() { # block HEADING LANGUAGE: prints the first code block in this language below the heading
  awk -v heading="## $1" -v fence='```'"$2" '
    $0 == heading { below = 1; next }
    /^## / { below = 0 }
    below && $0 == fence { inside = 1; next }
    inside && /^```/ { exit }
    inside' "$page"
}
show() { echo "examples: $*"; }

# The examples call kubectl by name, from the PATH.
mkdir "$work/bin"
ln -s "$KUBECTL" "$work/bin/kubectl"
export PATH=$work/bin:$PATH

for heading in curl kubectl; do
  block "$heading" sh > "$work/$heading.sh"
  [[ -s $work/$heading.sh ]] || { show "$page has no example for $heading"; exit 1; }
  bash -eu "$work/$heading.sh" | tail -n 1
  show "$heading: passed"
done

mkdir "$work/go"
block Go go > "$work/go/main.go"
(
  cd "$work/go"
  export GOTOOLCHAIN=local GOPROXY=off
  go mod init example.com/user 2> /dev/null
  go mod edit -require=github.com/prewarmer/prewarmer/sdk/go@v0.0.0 "-replace=github.com/prewarmer/prewarmer/sdk/go=$root/sdk/go"
  go run . 2>&1 | tail -n 1
)
show "Go: passed"

tools=$(compgen -G "${PREWARMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer}/python-sdk/*/bin/python" | head -n 1 || true)
if [[ -n $tools ]]; then
  block Python python > "$work/example.py"
  PYTHONPATH=$root/sdk/python/src PYTHONDONTWRITEBYTECODE=1 "$tools" "$work/example.py" 2>&1 | tail -n 1
  show "Python: passed"
else
  not_run "the example for Python" "the tools of the Python SDK are not installed: run sdk/python/check.sh"
fi
