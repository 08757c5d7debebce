#!/usr/bin/env bash
# Checks that the dependencies accept the oldest supported Rust (`rust-version` in Cargo.toml), and
# compiles the workspace with it where rustup has installed it, or always with --build. clippy finds
# uses of newer items of the standard library (incompatible_msrv).
set -euo pipefail
cd "$(dirname "$0")/.."
oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
cargo metadata --locked --format-version 1 | python3 -c '
import json, sys
oldest = sys.argv[1]
version = lambda text: [int(part) for part in text.split(".")[:2]]
newer = [p for p in json.load(sys.stdin)["packages"] if p["rust_version"] and version(p["rust_version"]) > version(oldest)]
for package in newer:
    print(package["name"], package["version"], "requires Rust", package["rust_version"], "and rust-version in Cargo.toml is", oldest)
sys.exit(bool(newer))' "$oldest"
echo "msrv: no dependency requires a newer Rust than $oldest"
toolchain=$(rustup toolchain list 2> /dev/null | grep -oE "^$oldest(\.[0-9]+)?-" | head -n 1 || true)
if [[ -n $toolchain ]]; then
  # In a folder of its own, so that the results of the usual toolchain stay current.
  CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/msrv cargo "+${toolchain%-}" check --locked --workspace --quiet
  echo "msrv: the workspace compiles with Rust ${toolchain%-}"
elif [[ ${1:-} == --build ]]; then
  echo "msrv: rustup has no toolchain $oldest: run rustup toolchain install $oldest --profile minimal" >&2
  exit 1
else
  echo "msrv: not compiled with Rust $oldest, which is not installed"
fi
