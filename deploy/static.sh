# shellcheck shell=bash
# Library to build static programs. Sourced by images.sh and plugin.sh, which define `die` and
# `say`. The variables that this file sets are used by these scripts.
# shellcheck disable=SC2034

# This machine's architecture, in the notation of images and archives.
machine=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2> /dev/null || echo 0)
export SOURCE_DATE_EPOCH

# Removes paths of this machine from the programs, so that builds of the same commit are identical.
# Relative relocations are packed (RELR): those of the server take 0.9 MB otherwise, all of which the
# start reads. The linker of another architecture may ignore the option with a warning.
flags="-C link-arg=-Wl,-z,pack-relative-relocs -C target-feature=+crt-static --remap-path-prefix=$PWD=/prewarmer --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
# Options of tar for reproducible archives.
same=(--sort=name "--mtime=@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner)

target_of() { sed 's/amd64/x86_64-unknown-linux-gnu/; s/arm64/aarch64-unknown-linux-gnu/' <<< "$1"; }

compiler_of() { # compiler_of ARCH: prints the C compiler; prints nothing for this machine's architecture
  local target
  target=$(target_of "$1")
  [[ $1 = "$machine" ]] || echo "${target%-unknown-linux-gnu}-linux-gnu-gcc"
}

build_static() { # build_static ARCH PROFILE PROGRAM: builds the program, and prints its path
  local arch=$1 profile=$2 program=$3 target compiler debian
  target=$(target_of "$arch")
  debian=${target%-unknown-linux-gnu}
  compiler=$(compiler_of "$arch")
  [[ -d $(rustc --print sysroot)/lib/rustlib/$target ]] || die "Rust's standard library for $arch is missing: rustup target add $target"
  if [[ -n $compiler ]]; then
    command -v "$compiler" > /dev/null || die "a C compiler for $arch is missing: apt-get install --install-recommends gcc-${debian//_/-}-linux-gnu"
    export "CC_${target//-/_}=$compiler" "CARGO_TARGET_$(tr a-z- A-Z_ <<< "$target")_LINKER=$compiler"
  fi
  say "building $program for $arch, profile $profile"
  # Explicit, because set -e does not apply within a command substitution.
  RUSTFLAGS=$flags cargo build --locked --quiet --profile "$profile" --target "$target" --bin "$program" || return
  echo "${CARGO_TARGET_DIR:-target}/$target/${profile/#dev/debug}/$program"
}
