#!/usr/bin/env bash
# Checks the behaviour of the REST API against its OpenAPI document with schemathesis, which is
# installed from PyPI into the user's cache.
# Exits with 77, and the reason on standard error, if it cannot be installed.
# usage: schemathesis.sh BASE-URL TOKEN [OPTION...]   (BASE-URL such as http://127.0.0.1:8080)
# The variables NAMESPACE, TASK and SCHEDULE name the caller's namespace and existing objects in it.
set -euo pipefail
cd "$(dirname "$0")/.."
version=4.32.5
base=$1 token=$2; shift 2
cache=${PREWARMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer}/schemathesis-$version
if [ ! -x "$cache/bin/schemathesis" ]; then
  mkdir -p "$(dirname "$cache")"
  rm -rf "$cache"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! { python3 -m venv "$cache" && "$cache/bin/pip" --disable-pip-version-check install --retries 1 "schemathesis==$version"; } > "$log" 2>&1; then
    rm -rf "$cache"
    echo "schemathesis could not be installed; python3 with venv (Debian packages python3 and python3-venv) and the Python package index are required: $(tail -n 1 "$log")" >&2
    exit 77
  fi
  rm -f "$log"
fi
exec "$cache/bin/schemathesis" --config-file tests/schemathesis.toml run "$base/api/v1/openapi.json" \
  --header "Authorization: Bearer $token" "$@"
