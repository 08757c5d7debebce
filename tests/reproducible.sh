#!/usr/bin/env bash
# Builds the images of the current commit twice, from two clones in different directories, and
# compares the digests.
# usage: reproducible.sh [PROFILE]   (cargo profile; release takes about 20 minutes on 2 cores)
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
echo "the digests of both builds are equal"
