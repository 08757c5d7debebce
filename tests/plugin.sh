#!/usr/bin/env bash
# Tests the release files of the kubectl plugin: builds them, installs them with krew, and calls the
# plugin through kubectl. Run by `tests/cluster/cluster with`, which sets the environment of the
# cluster.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/environment.sh
. tests/environment.sh
say() { echo "plugin: $*"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The same profile and flags as for the test images, so that build results are reused.
deploy/plugin.sh --profile "${PREWARMER_TEST_PROFILE:-quick}" "$work/out"
say "building krew, if it is not built yet"
cache=${PREWARMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer}/krew-$(cat tests/krew/go.* | sha256sum | cut -c1-16)
if [[ ! -x $cache/krew ]]; then
  mkdir -p "$cache"
  (cd tests/krew && go build -o "$cache/krew.new" sigs.k8s.io/krew/cmd/krew)
  mv "$cache/krew.new" "$cache/krew"
fi
export KREW_ROOT=$work/krew
"$cache/krew" install --manifest="$work/out/prewarm.yaml" --archive="$(ls "$work"/out/*.tar.gz)" < /dev/null 2>&1
export PATH=$KREW_ROOT/bin:$PATH
"${CARGO_TARGET_DIR:-target}/debug/prewarmer" crds | "$KUBECTL" apply --server-side --force-conflicts -f - > /dev/null
"$KUBECTL" wait --for=condition=Established crd/prewarmtasks.prewarm.io --timeout=30s > /dev/null
"$KUBECTL" prewarm run nginx:1.27 --node-selector type=fake --name by-krew
"$KUBECTL" prewarm ls | grep -q '^by-krew *Pending' || { say "the task is not listed"; exit 1; }
"$KUBECTL" prewarm explain by-krew | grep -q 'is Prewarmer running?' || { say "explain does not report that no controller processes the task"; exit 1; }
# Syntax of the manual page and the completions.
tar -xzf "$work"/out/*.tar.gz -C "$work"
bash -n "$work/completion.bash"
grep -q '^\.TH kubectl-prewarm' "$work/kubectl-prewarm.1"
why=$(command -v man > /dev/null || install_packages man-db) || true
if command -v man > /dev/null; then
  complaints=$(LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z "$work/kubectl-prewarm.1" 2>&1 > /dev/null)
  [[ -z $complaints ]] || { say "warnings of man for the manual page: $complaints"; exit 1; }
else
  not_run "the check of the manual page" "man (Debian package man-db) is not installed: $why"
fi
say "passed"
