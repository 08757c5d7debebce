#!/usr/bin/env bash
# make advisories: checks dependencies for known vulnerabilities. A vulnerability is a failure; an
# unmaintained or unsound crate is a warning. A database that cannot be reached is reported as NOT
# RUN; with STRICT=1, as in the scheduled workflow, this is a failure. ADVISORY_DB=URL uses another
# copy of the RustSec database, such as file:///path/to/clone.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer
database=${ADVISORY_DB:-https://github.com/rustsec/advisory-db}
failed='' missing=''
not_run() { echo "NOT RUN: advisories: $*"; missing=yes; }
reached() { curl --silent --fail --max-time 10 --output /dev/null "$@"; }

rust() {
  local config
  if ! GIT_TERMINAL_PROMPT=0 timeout 20 git ls-remote --quiet "$database" HEAD > /dev/null 2>&1; then
    not_run "crates: $database cannot be reached"
    return
  fi
  # tests/deny.sh installs cargo-deny if it is missing.
  bash tests/deny.sh || return 1
  config=$(mktemp --suffix .toml)
  sed "s|^\[advisories\]|&\ndb-urls = [\"$database\"]|" deny.toml > "$config"
  PATH="$(printf '%s\n' "$cache"/cargo-deny-*/bin | tail -n 1):$PATH" cargo deny check --config "$config" --hide-inclusion-graph \
    --warn unmaintained --warn unsound --warn notice advisories || failed+=' crates'
  rm -f "$config"
}

go_modules() { # Only the SDK is checked: the other Go modules build programs for tests.
  if ! reached https://vuln.go.dev/index/db.json; then
    not_run "Go modules: vuln.go.dev cannot be reached"
    return
  fi
  (cd sdk/go && GOTOOLCHAIN=local go run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./...) || failed+=' Go'
}

python() {
  if ! reached https://pypi.org/pypi/httpx/0.28.1/json; then
    not_run "Python packages: the advisory API of PyPI cannot be reached"
    return
  fi
  python3 -m venv "$cache/pip-audit" && "$cache/pip-audit/bin/pip" install --quiet pip-audit==2.9.0 &&
    "$cache/pip-audit/bin/pip-audit" --progress-spinner off --requirement sdk/python/requirements-dev.txt || failed+=' Python'
}

npm_packages() {
  local output
  if output=$(cd tests/browser && npm audit --package-lock-only --audit-level=high 2>&1); then
    echo "advisories: npm: none"
  elif grep -q 'audit endpoint returned an error\|ENOTFOUND\|EAI_AGAIN\|ETIMEDOUT' <<< "$output"; then
    not_run "npm packages: the audit endpoint of the registry cannot be reached"
  else
    echo "$output"
    failed+=' npm'
  fi
}

rust
if command -v go > /dev/null; then go_modules; else not_run "Go modules: go is not installed"; fi
if command -v python3 > /dev/null; then python; else not_run "Python packages: python3 is not installed"; fi
if command -v npm > /dev/null; then npm_packages; else not_run "npm packages: npm is not installed"; fi
[[ -z $failed ]] || { echo "advisories: vulnerabilities found in:$failed"; exit 1; }
[[ -z $missing || ${STRICT:-} != 1 ]] || { echo "advisories: incomplete, and STRICT=1 is set"; exit 1; }
