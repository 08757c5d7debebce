#!/usr/bin/env bash
# Has schemathesis compare what the REST API does with what its OpenAPI document says: schemathesis.sh BASE-URL TOKEN [OPTIONS]
# BASE-URL is such as http://127.0.0.1:8080; TASK and SCHEDULE name some that there are. schemathesis comes from PyPI, into the
# cache.
set -euo pipefail
cd "$(dirname "$0")/.."
version=4.32.5
base=$1 token=$2; shift 2
cache=${PREWARMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer}/schemathesis-$version
if [ ! -x "$cache/bin/schemathesis" ]; then
  mkdir -p "$(dirname "$cache")"
  rm -rf "$cache"
  if ! { python3 -m venv "$cache" && "$cache/bin/pip" --quiet --disable-pip-version-check install "schemathesis==$version"; } >&2; then
    rm -rf "$cache"
    echo "NOT RUN: schemathesis: it could not be installed (python3 with venv, and PyPI, are needed)" >&2
    exit 77
  fi
fi
exec "$cache/bin/schemathesis" --config-file tests/schemathesis.toml run "$base/api/v1/openapi.json" \
  --header "Authorization: Bearer $token" "$@"
