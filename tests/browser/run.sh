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
# shellcheck source=tests/environment.sh
. ../environment.sh
missing() { not_run "the web pages in a browser" "$1"; exit; }
: "${PREWARMER_URL:?}" "${PREWARMER_TOKEN:?}" "${PREWARMER_READ_TOKEN:?}"

# Playwright requires Node.js 20. Nothing is installed where the machine's or Debian's is older.
node_required=20
node_major() { node -e 'console.log(process.versions.node.split(".")[0])' 2> /dev/null || echo 0; }
candidate=$(node_major)
if [[ $candidate == 0 ]] && command -v apt-cache > /dev/null; then
  candidate=$(apt-cache policy nodejs 2> /dev/null | sed -n 's/^ *Candidate: \([0-9]*\).*/\1/p')
fi
((${candidate:-0} >= node_required)) ||
  missing "Node.js $node_required or newer is required, and $([[ ${candidate:-0} == 0 ]] && echo 'no Node.js is' || echo "Node.js $candidate is") installed or available; install it from nodejs.org or a newer Debian"
packages=()
command -v node > /dev/null || packages+=(nodejs)
command -v npm > /dev/null || packages+=(npm)
command -v chromium > /dev/null || packages+=(chromium)
if [[ ${#packages[@]} -gt 0 ]]; then
  echo "installing the Debian packages ${packages[*]}"
  why=$(install_packages "${packages[@]}") || missing "$why"
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
        missing "npm could not download the packages of package-lock.json from the registry ($code)" ;;
    esac
    cat "$work/log"
    exit 1
  fi
  mv "$work" "$modules"
fi
flock -u 9

CHROMIUM=$(command -v chromium) BROWSER_MODULES=$modules exec node pages.mjs
