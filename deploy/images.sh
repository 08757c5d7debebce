#!/usr/bin/env bash
# Builds the images of the server and the helper without a container engine. They contain a static
# program and, for the server, the certificates of public authorities. Builds are reproducible: the
# same commit on the same Debian release results in the same digests.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat << 'U'
usage: images.sh [--arch ARCH[,ARCH]] [--profile PROFILE] [--sbom] [--push REGISTRY/FOLDER] OUT

OUT        output directory: OUT/prewarmer and OUT/prewarmer-helper are OCI image layouts, OUT/digests lists their digests
--arch     amd64, arm64 or both (default: this machine's). The other architecture needs its Rust target and C compiler
--profile  cargo profile (default: release)
--sbom     also write an SBOM of the server, CycloneDX: OUT/prewarmer.cdx.json (the helper contains only Rust's standard library)
--push     also push the images there, with crane and the credentials of ~/.docker/config.json
U
}
die() { echo "images: $*" >&2; exit 1; }
say() { echo "images: $*" >&2; }

# shellcheck source=deploy/static.sh
. deploy/static.sh
arches=$machine profile=release sbom='' push='' out=''
while (($#)); do
  case $1 in
    --arch | --profile | --push)
      (($# > 1)) || { usage >&2; exit 2; }
      declare "$(sed 's/--arch/arches/; s/--//' <<< "$1")=$2"
      shift
      ;;
    --sbom) sbom=yes ;;
    -h | --help) usage; exit ;;
    -*) usage >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
[[ -n $out ]] || { usage >&2; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
for tool in cargo rustc go tar git; do command -v "$tool" > /dev/null || die "$tool is required, but is not on the PATH"; done
crane=$(tests/cluster/cluster program crane)
authorities=/etc/ssl/certs/ca-certificates.crt
[[ -f $authorities ]] || die "$authorities is missing: install ca-certificates"

revision=$(git rev-parse HEAD 2> /dev/null || echo unknown)
work=$(mktemp -d)
registry_pid=''
trap '[[ -z $registry_pid ]] || kill "$registry_pid" 2> /dev/null || true; rm -rf "$work"' EXIT

build() { # build ARCH
  local arch=$1 program compiler
  program=$(build_static "$arch" "$profile" prewarmer)
  compiler=$(compiler_of "$arch")
  mkdir -p "$work/prewarmer-$arch/etc/ssl/certs" "$work/prewarmer-helper-$arch"
  cp "$program" "$work/prewarmer-$arch/prewarmer"
  cp "$authorities" "$work/prewarmer-$arch/etc/ssl/certs/ca-certificates.crt"
  # shellcheck disable=SC2086
  rustc --edition 2024 --target "$(target_of "$arch")" -C opt-level=z -C lto=fat \
    -C codegen-units=1 $flags -C panic=abort -C strip=symbols ${compiler:+-C linker=$compiler} \
    -o "$work/prewarmer-helper-$arch/prewarmer-helper" crates/helper/src/main.rs
}

start_registry() {
  "$crane" registry serve --address 127.0.0.1:0 > "$work/registry.log" 2>&1 &
  registry_pid=$!
  local port=''
  for _ in $(seq 100); do
    port=$(sed -n 's/.*serving on port \([0-9]*\).*/\1/p' "$work/registry.log")
    [[ -n $port ]] && break
    sleep 0.1
  done
  [[ -n $port ]] || die "no registry: $(cat "$work/registry.log")"
  registry=127.0.0.1:$port
}

assemble() { # assemble NAME TITLE
  local name=$1 title=$2 arch manifests=()
  for arch in ${arches//,/ }; do
    chmod -R u=rwX,go=rX "$work/$name-$arch"
    # crane compresses a layer for speed, which makes it a seventh larger.
    tar "${same[@]}" --format=gnu -C "$work/$name-$arch" -cf - . | gzip -9n > "$work/layer.tar.gz"
    "$crane" append --oci-empty-base -f "$work/layer.tar.gz" -t "$registry/$name:$arch"
    "$crane" mutate "$registry/$name:$arch" -t "$registry/$name:$arch" --set-platform "linux/$arch" \
      --user 65532:65532 --entrypoint "/$name" --label "org.opencontainers.image.title=$title" \
      --label "org.opencontainers.image.version=$version" --label "org.opencontainers.image.revision=$revision" \
      --label "org.opencontainers.image.licenses=Apache-2.0"
    manifests+=(-m "$registry/$name:$arch")
  done
  "$crane" index append "${manifests[@]}" -t "$registry/$name:$version"
  rm -rf "${out:?}/$name"
  "$crane" pull --format=oci "$registry/$name:$version" "$out/$name"
  printf '%s@%s\n' "$name:$version" "$("$crane" digest "$registry/$name:$version")" >> "$out/digests"
  if [[ -n $push ]]; then
    say "pushing $push/$name:$version"
    "$crane" copy "$registry/$name:$version" "$push/$name:$version"
  fi
}

write_sbom() {
  local tool=0.5.7 root=${XDG_CACHE_HOME:-$HOME/.cache}/prewarmer/cargo-cyclonedx
  root+=-$tool
  if [[ ! -x $root/bin/cargo-cyclonedx ]]; then
    say "installing cargo-cyclonedx $tool, about 2 minutes on 2 cores"
    cargo install --quiet --locked --debug --root "$root" --version "$tool" cargo-cyclonedx
  fi
  # Includes build dependencies: build scripts run on the machine that builds the images.
  PATH="$root/bin:$PATH" cargo cyclonedx --quiet --format json --spec-version 1.5 --describe binaries \
    --target "$(target_of "$machine")"
  # Paths of this machine, the time and random identifiers are removed. The helper gets no SBOM,
  # because it contains only the standard library.
  sed -e "s#file://$PWD#file:///prewarmer#g" -e '/"serialNumber": /d' \
    -e "s#\"timestamp\": \"[^\"]*\"#\"timestamp\": \"$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)\"#" \
    prewarmer_bin.cdx.json > "$work/prewarmer.cdx.json"
  # Adds vendored files that are not crates before the first crate, without the outer brackets of
  # their list.
  sed -e '1d;$d' -e 's/^/  /' deploy/vendored.json | sed '$s/$/,/' > "$work/vendored"
  sed "/^  \"components\": \[/r $work/vendored" "$work/prewarmer.cdx.json" > "$out/prewarmer.cdx.json"
  find . -name "*_bin.cdx.json" -not -path "./target/*" -delete
}

for arch in ${arches//,/ }; do
  [[ $arch == amd64 || $arch == arm64 ]] || die "--arch: expected amd64 or arm64, got $arch"
  build "$arch"
done
start_registry
rm -f "$out/digests"
{
  assemble prewarmer "Pulls container images to Kubernetes nodes before the pods that need them"
  assemble prewarmer-helper "Runs in Prewarmer's worker pods and exits"
} > "$work/crane.log" 2>&1 || die "crane failed: $(tail -n 3 "$work/crane.log")"
[[ -z $sbom ]] || write_sbom
say "the images are in $out:"
cat "$out/digests"
