# How programs are built that need nothing beside them; for images.sh and plugin.sh, which say `die` and `say` in their own name.
# shellcheck shell=bash

# This machine's architecture, as images and archives name it.
machine=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2> /dev/null || echo 0)
export SOURCE_DATE_EPOCH

# No path of this machine in the programs, and nothing that another build of the same commit would not have.
flags="-C target-feature=+crt-static --remap-path-prefix=$PWD=/prewarmer --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
# What tar needs so that the same files give the same archive.
same=(--sort=name "--mtime=@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner)

target_of() { sed 's/amd64/x86_64-unknown-linux-gnu/; s/arm64/aarch64-unknown-linux-gnu/' <<< "$1"; }

compiler_of() { # compiler_of ARCH: the C compiler; nothing for this machine's own
  local target
  target=$(target_of "$1")
  [[ $1 = "$machine" ]] || echo "${target%-unknown-linux-gnu}-linux-gnu-gcc"
}

build_static() { # build_static ARCH PROFILE PROGRAM: prints where the program is
  local arch=$1 profile=$2 program=$3 target compiler
  target=$(target_of "$arch")
  compiler=$(compiler_of "$arch")
  [[ -d $(rustc --print sysroot)/lib/rustlib/$target ]] || die "Rust's standard library for $arch is missing: rustup target add $target"
  if [[ -n $compiler ]]; then
    command -v "$compiler" > /dev/null || die "a C compiler for $arch is missing: apt-get install gcc-${target%-unknown-linux-gnu}-linux-gnu"
    export "CC_${target//-/_}=$compiler" "CARGO_TARGET_$(tr a-z- A-Z_ <<< "$target")_LINKER=$compiler"
  fi
  say "building $program for $arch, profile $profile"
  # In a command substitution a failure does not end the script by itself.
  RUSTFLAGS=$flags cargo build --locked --quiet --profile "$profile" --target "$target" --bin "$program" || return
  echo "${CARGO_TARGET_DIR:-target}/$target/${profile/#dev/debug}/$program"
}
