#!/usr/bin/env bash
# Builds kubectl's plugin as it is given to users: an archive for each architecture, with completions, manual page and licence,
# and the manifest by which krew installs it.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  cat << 'U'
usage: plugin.sh [--arch ARCH[,ARCH]] [--profile PROFILE] [--url URL] OUT

OUT        a folder: OUT/kubectl-prewarm-linux-ARCH.tar.gz and OUT/prewarm.yaml
--arch     amd64, arm64 or both; this machine's by default. The other one needs its target of Rust and its C compiler
--profile  cargo's profile (release)
--url      where the archives will be found, without their names (file:// and OUT by default)

Install: kubectl krew install --manifest=OUT/prewarm.yaml --archive=OUT/kubectl-prewarm-linux-amd64.tar.gz,
or put the program into a folder of the PATH.
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
  # The completions and the page are the same for all: this machine's program writes them.
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
    Makes and follows PrewarmTasks and PrewarmSchedules: warm images or those of a
    workload, see how far it is, why a node failed and what to do, try the failed
    nodes again, and what is warm where. Needs Prewarmer in the cluster.
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
say "in $out: $(cd "$out" && ls | tr '\n' ' ')"
