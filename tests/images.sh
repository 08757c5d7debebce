#!/usr/bin/env bash
# Builds the images and the plugin's archives for both architectures, and checks them: each image has
# a variant for each architecture, whose program is a static one of that architecture. A machine that
# cannot compile for the other architecture reports NOT RUN (environment.sh).
# usage: images.sh [PROFILE]   (cargo profile; default: quick, whose results for this machine are those of
#                               tests/installed.sh; the workflow uses release)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/environment.sh
. tests/environment.sh
profile=${1:-quick}
case $(uname -m) in
  x86_64) other=aarch64 libc=libc6-dev-arm64-cross ;;
  *) other=x86-64 libc=libc6-dev-amd64-cross ;;
esac
target=${other/-/_}-unknown-linux-gnu
if [[ ! -d $(rustc --print sysroot)/lib/rustlib/$target ]]; then
  rustup target add "$target" || { not_run "images of both architectures" "Rust's standard library for $target is missing: rustup target add $target"; exit; }
fi
# The compiler only recommends the C library, which it needs to link.
if [[ ! -e $("${other/-/_}-linux-gnu-gcc" -print-file-name=libc.a 2> /dev/null || true) ]]; then
  why=$(install_packages "gcc-$other-linux-gnu" "$libc") || { not_run "images of both architectures" "$why"; exit; }
fi
out=${CARGO_TARGET_DIR:-target}/images-$profile
rm -rf "$out"
deploy/images.sh --arch amd64,arm64 --profile "$profile" "$out"
deploy/plugin.sh --arch amd64,arm64 --profile "$profile" "$out/plugin"
python3 tests/image_layout.py "$out" prewarmer prewarmer-helper
