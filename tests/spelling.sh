#!/usr/bin/env bash
# make check-spelling: checks the spelling of everything that is committed with typos, which is
# installed into the user's cache if it is missing. Settings: .typos.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
version=1.52.0
root=${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer/typos-$version
export PATH="$root/bin:$PATH"
if ! typos --version 2> /dev/null | grep -qF "$version"; then
  echo "check-spelling: installing typos $version, about 4 minutes on 2 cores"
  cargo install --quiet --locked --debug --root "$root" --version "$version" typos-cli
fi
git ls-files -z | xargs -0 typos --force-exclude
echo "check-spelling: no findings"
