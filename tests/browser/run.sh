#!/usr/bin/env bash
# Tests the web pages in Debian's Chromium with Playwright, and their accessibility with axe.
# PREWARMER_URL             URL of the server, such as http://127.0.0.1:8080; TLS is not verified
# PREWARMER_TOKEN           token with write access to PREWARMER_TEST_NAMESPACE (default: shop)
# PREWARMER_READ_TOKEN      token with read access to every namespace
# SHOTS=DIR                 also save screenshots to this directory
# ONLY=REGEX                run only the tests whose names match
# The cluster needs the 120 fake nodes of tests/cluster. Chromium keeps Secure cookies over HTTPS,
# and from loopback.
set -euo pipefail
cd "$(dirname "$0")"
not_run() { echo "NOT RUN: the pages in a browser: $*"; exit 0; }
: "${PREWARMER_URL:?}" "${PREWARMER_TOKEN:?}" "${PREWARMER_READ_TOKEN:?}"

# Playwright requires Node.js 20.
ready() {
  command -v npm > /dev/null && command -v chromium > /dev/null &&
    node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2> /dev/null
}
if ! ready; then
  if [[ $(id -u) != 0 ]] || ! command -v apt-get > /dev/null; then
    not_run "Node.js 20, npm and chromium are required, and can be installed only by root with apt-get"
  fi
  echo "installing the Debian packages nodejs, npm and chromium"
  log=$(mktemp)
  missing=()
  command -v node > /dev/null || missing+=(nodejs)
  command -v npm > /dev/null || missing+=(npm)
  command -v chromium > /dev/null || missing+=(chromium)
  install() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" > "$log" 2>&1; }
  if [[ ${#missing[@]} -gt 0 ]]; then
    install || { apt-get update > "$log" 2>&1 && install; } || not_run "apt-get could not install ${missing[*]}: $(tail -n 1 "$log")"
  fi
  rm -f "$log"
  ready || not_run "Node.js 20 is required, but $(node --version) is installed"
fi

# Installs the packages of package-lock.json once for each version of that file. The lock protects
# against concurrent runs.
cache=${PREWARMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer}
modules=$cache/browser-$(sha256sum package-lock.json | cut -c1-16)
mkdir -p "$cache"
exec 9> "$cache/browser.lock"
flock 9
if [[ ! -d $modules ]]; then
  work=$(mktemp -d "$cache/browser-new.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cp package.json package-lock.json "$work"
  if ! npm ci --prefix "$work" --ignore-scripts --no-audit --no-fund > "$work/log" 2>&1; then
    # An unreachable registry is not a failure of the tests; packages that differ from the lock file
    # are.
    code=$(sed -n 's/^npm error code //p; s/^npm ERR! code //p' "$work/log" | head -n 1)
    case $code in
      ENOTFOUND | EAI_AGAIN | ECONNREFUSED | ECONNRESET | ETIMEDOUT | ENETUNREACH | ERR_SOCKET_TIMEOUT | E403 | E404 | E50?)
        not_run "npm could not download the packages ($code)" ;;
    esac
    cat "$work/log"
    exit 1
  fi
  mv "$work" "$modules"
fi
flock -u 9

CHROMIUM=$(command -v chromium) BROWSER_MODULES=$modules exec node pages.mjs
