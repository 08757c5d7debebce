#!/usr/bin/env bash
# Runs clients of image prewarm services: curl, Python and Go. Requires the variables that
# tests/clients.sh exports, curl and jq, and Go.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
show() { echo "existing clients: $*"; }

if command -v jq > /dev/null; then
  bash tasks.sh
else
  echo "NOT RUN: curl of existing clients: jq is required"
  [[ -z ${CI:-${PREWARMER_TEST_STRICT:-}} ]] || exit 1
fi
GOTOOLCHAIN=local GOPROXY=off go run main.go
tools=$(compgen -G "${PREWARMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer}/python-sdk/*/bin/python" | head -n 1 || true)
if [[ -n $tools ]]; then
  PYTHONPATH=$root/sdk/python/src PYTHONDONTWRITEBYTECODE=1 "$tools" client.py
else
  echo "NOT RUN: Python of existing clients: the tools of the Python SDK are not installed"
fi
show "passed"
