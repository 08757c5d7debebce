#!/usr/bin/env bash
# Measures nodes warmed per second by the server, and by the baseline (benches/floor.rs) in the same
# run. Called by measure.sh with the environment of a cluster.
# usage: measure-engine.sh NODES IMAGES BATCH KINDS [--no-floor]
set -euo pipefail
nodes=$1 images=$2 batch=$3 kinds=$4 floor=${5:-}
# shellcheck source=tests/measure-lib.sh
. tests/measure-lib.sh

one_floor() {
  local kind=$1 before took
  before=$(writes)
  took=$(target/release/examples/floor "$kind" "$nodes" "$images" "$batch")
  sleep 3
  echo "floor, $kind: $(per "$took" 1000) s, $(per $((nodes * 1000)) "$took") nodes/s, $(per $(($(writes) - before)) "$nodes") API writes per node"
}

one_task() {
  local kind=$1 before before_ours before_reads took since name list
  name=measure-$(tr '[:upper:]' '[:lower:]' <<< "$kind")-$RANDOM
  list=$(seq -s, 0 $((images - 1)) | sed -E 's/([0-9]+)/"app-\1:1"/g')
  before=$(writes) before_ours=$(ours) before_reads=$(reads) since=$(date +%s%N)
  echo '{"apiVersion":"prewarm.io/v1alpha1","kind":"PrewarmTask","metadata":{"name":"'"$name"'"},"spec":{"images":['"$list"'],"nodeSelector":{"type":"fake"},"batchSize":'"$batch"',"worker":"'"$kind"'","imagePullPolicy":"Always"}}' | k apply -f - > /dev/null
  k wait --for=condition=Complete "prewarmtask/$name" --timeout=3000s > /dev/null
  took=$((($(date +%s%N) - since) / 1000000))
  sleep 3
  echo "server, $kind: $(per "$took" 1000) s, $(per $((nodes * 1000)) "$took") nodes/s, $(per $(($(writes) - before)) "$nodes") API writes per node, $(per $(($(ours) - before_ours)) "$nodes") of them its own; $(($(reads) - before_reads)) reads"
  echo "  status: $(k get prewarmtask "$name" -o json | wc -c) bytes of JSON; memory: $(memory)"
}

echo "$nodes nodes x $images images in batches of $batch"
serve
echo "memory, idle: $(memory)"
for kind in $kinds; do
  if [ "$floor" != --no-floor ]; then one_floor "$kind"; fi
  one_task "$kind"
  if [ "$floor" != --no-floor ]; then one_floor "$kind"; fi
done
if [ -s "$work/log" ]; then echo "log of the server:"; head -c 4000 "$work/log"; fi
