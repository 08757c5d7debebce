#!/usr/bin/env bash
# make deny: checks licences, bans and sources of dependencies with cargo-deny, which is installed
# into the user's cache if it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
root=${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer/cargo-deny-$version
export PATH="$root/bin:$PATH"
if ! cargo deny --version 2> /dev/null | grep -qF "$version"; then
  echo "deny: installing cargo-deny $version, about 3 minutes on 2 cores"
  cargo install --quiet --locked --debug --root "$root" --version "$version" cargo-deny
fi
cargo deny --log-level error check licenses bans sources
