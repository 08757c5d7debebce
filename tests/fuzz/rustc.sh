#!/usr/bin/env bash
# Compiler of the fuzz targets (RUSTC_WRAPPER): adds coverage instrumentation to the crates of this
# repository, and to those that INSTRUMENT names. Others are compiled as usual, so that a build in
# the directory of the tests compiles no dependency again. Coverage instrumentation uses LLVM's own
# pass, so that a stable toolchain suffices.
set -euo pipefail
rustc=$1 package=${CARGO_PKG_NAME:-none}
shift
# Crates that build scripts and macros use run at build time, without libFuzzer's runtime. With
# INSTRUMENT, cargo compiles them separately: those of the targets have the option --target.
[[ -z ${INSTRUMENT:-} || " $* " == *" --target "* ]] || exec "$rustc" "$@"
case " prewarmer ${INSTRUMENT:-} " in
  *" ${package%%-*} "* | *" $package "*)
    exec "$rustc" "$@" -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
      -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
      -C llvm-args=-sanitizer-coverage-trace-compares
    ;;
esac
exec "$rustc" "$@"
