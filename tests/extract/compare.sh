#!/usr/bin/env bash
# Compares which manifests kubectl and `prewarmer extract` accept: compare.sh DIRECTORY
# Reads each .yaml, .yml and .json file below the directory with `kubectl annotate --local`, which
# needs no cluster, and with `prewarmer extract`. Prints a line for each file that only one of them
# accepts, with the message of the other one, and the counts. Fails if kubectl alone accepts a file.
# PREWARMER names the program (default: target/debug/prewarmer), KUBECTL that of the test cluster.
set -euo pipefail
[[ $# -eq 1 && -d $1 ]] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
program=${PREWARMER:-${CARGO_TARGET_DIR:-$root/target}/debug/prewarmer}
kubectl=${KUBECTL:-$("$root/tests/cluster/cluster" build)/kubectl}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

files=0 both=0 neither=0 only_kubectl=0 only_extract=0 panics=0
while IFS= read -r -d '' file; do
  files=$((files + 1))
  accepts=1 reads=1
  # KUBECONFIG: the user's own cluster has no part in this.
  KUBECONFIG=/dev/null timeout 60 "$kubectl" annotate --local -f "$file" x=y -o yaml >/dev/null 2>"$work/kubectl" || accepts=0
  timeout 60 "$program" extract -f "$file" >/dev/null 2>"$work/extract" || reads=0
  if grep -q 'panicked at' "$work/extract"; then
    panics=$((panics + 1))
    echo "PANIC $file"
  fi
  case $accepts$reads in
    11) both=$((both + 1)) ;;
    00) neither=$((neither + 1)) ;;
    10)
      only_kubectl=$((only_kubectl + 1))
      echo "only kubectl: $file: $(grep '^prewarmer: ' "$work/extract" | head -1 | cut -c1-300)"
      ;;
    01)
      only_extract=$((only_extract + 1))
      echo "only extract: $file: $(head -1 "$work/kubectl" | cut -c1-300)"
      ;;
  esac
done < <(find -L "$1" -type f \( -name '*.yaml' -o -name '*.yml' -o -name '*.json' \) -print0 | sort -z)

echo "$files files: $both accepted by both, $neither by neither, $only_kubectl by kubectl only, $only_extract by extract only, $panics panics"
((only_kubectl == 0 && panics == 0))
