#!/usr/bin/env bash
# Builds the images twice, from two clones in two places, and compares the digests. For the commit that is checked out.
# Takes cargo's profile; with release about 20 minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-release}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for place in one another/place; do
  git clone --quiet . "$work/$place/prewarmer"
  (cd "$work/$place/prewarmer" && env -u CARGO_TARGET_DIR deploy/images.sh --profile "$profile" "$work/$place/images")
done
diff "$work/one/images/digests" "$work/another/place/images/digests" || { echo "the digests differ"; exit 1; }
echo "the same digests, built in two places"
