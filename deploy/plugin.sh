#!/usr/bin/env bash
# Builds the release files of the kubectl plugin: an archive for each architecture, with
# completions, manual page and licence, and the manifest for krew.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat << 'U'
usage: plugin.sh [--arch ARCH[,ARCH]] [--profile PROFILE] [--url URL] OUT

OUT        output directory: OUT/kubectl-prewarm-linux-ARCH.tar.gz and OUT/prewarm.yaml
--arch     amd64, arm64 or both (default: this machine's). The other architecture needs its Rust target and C compiler
--profile  cargo profile (default: release)
--url      URL of the directory of the archives (default: file://OUT)

Install: kubectl krew install --manifest=OUT/prewarm.yaml --archive=OUT/kubectl-prewarm-linux-amd64.tar.gz,
or copy the program into a directory on the PATH.
U
}
die() { echo "plugin: $*" >&2; exit 1; }
say() { echo "plugin: $*" >&2; }

# shellcheck source=deploy/static.sh
. deploy/static.sh
arches=$machine profile=release url='' out=''
while (($#)); do
  case $1 in
    --arch | --profile | --url)
      (($# > 1)) || { usage >&2; exit 2; }
      declare "$(sed 's/--arch/arches/; s/--//' <<< "$1")=$2"
      shift
      ;;
    -h | --help) usage; exit ;;
    -*) usage >&2; exit 2 ;;
    *) out=$1 ;;
  esac
  shift
done
[[ -n $out ]] || { usage >&2; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
url=${url:-file://$out}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pack() { # pack ARCH PROGRAM
  local folder=$work/$1
  mkdir -p "$folder"
  cp "$2" LICENSE "$folder/"
  # Completions and manual page do not depend on the architecture: the program for this machine
  # writes them.
  for shell in bash zsh fish; do "$native" completion "$shell" > "$folder/completion.$shell"; done
  "$native" completion kubectl > "$folder/kubectl_complete-prewarm"
  chmod +x "$folder/kubectl_complete-prewarm"
  "$native" man > "$folder/kubectl-prewarm.1"
  tar "${same[@]}" -C "$folder" -c . |
    gzip -n > "$out/kubectl-prewarm-linux-$1.tar.gz"
}

declare -A programs
native=''
for arch in ${arches//,/ }; do
  programs[$arch]=$(build_static "$arch" "$profile" kubectl-prewarm)
  [[ $arch != "$machine" ]] || native=${programs[$arch]}
done
[[ -n $native ]] || native=$(build_static "$machine" "$profile" kubectl-prewarm)
{
  cat << M
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: prewarm
spec:
  version: v$version
  shortDescription: Pull images to nodes before the pods that need them
  description: |
    Creates and watches PrewarmTasks and PrewarmSchedules: warm images, or the
    images of a workload; show progress, failure reasons and remedies; retry failed
    nodes; list warm images by node. Requires Prewarmer in the cluster.
  platforms:
M
  for arch in ${arches//,/ }; do
    pack "$arch" "${programs[$arch]}"
    archive=kubectl-prewarm-linux-$arch.tar.gz
    cat << M
    - selector: {matchLabels: {os: linux, arch: $arch}}
      uri: $url/$archive
      sha256: $(sha256sum "$out/$archive" | cut -d' ' -f1)
      bin: kubectl-prewarm
M
  done
} > "$out/prewarm.yaml"
say "files in $out: $(cd "$out" && printf '%s ' *)"
