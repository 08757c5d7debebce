#!/usr/bin/env bash
# Measures the time from start to readiness, and resident memory of the server with finished tasks,
# workloads, REST watches and a task on all fake nodes, each in addition to the previous ones, after all
# of them were deleted, and of a server that is started then; and what the server uses without work. Run
# with the environment of a cluster.
# usage: memory.sh NODES IMAGES BATCH WORKLOADS TASKS WATCHES
set -euo pipefail
cd "$(dirname "$0")/../.."
nodes=$1 images=$2 batch=$3 workloads=$4 tasks=$5 watches=$6
# shellcheck source=tests/measure/server.sh
. tests/measure/server.sh

# More watches than one caller may open by default.
serve_options=(--api-watches 4096 --api-rate 100000)
record size "$nodes" "$images" "$batch" "$workloads" "$tasks" "$watches"
serve
memory "idle"
# The second start reads the CA that the first has created, as the replicas of an update do.
kill "$server"
wait "$server"
serve
task first Pod "$images" "$batch"
memory "a task with bare pods"
# Workloads whose images are already warm, so that they create no task.
since=$(now)
python3 tests/measure/objects.py deployments "$workloads" "$images"
record took workloads "$(milliseconds_since "$since")"
since=$(now)
python3 tests/measure/objects.py tasks "$tasks"
record took tasks "$(milliseconds_since "$since")"
# Until kube-controller-manager has written the statuses of the Deployments.
sleep 60
idle 60
memory "in addition workloads and finished tasks"
open_watches "$watches"
memory "in addition REST watches"
task second Job "$images" "$batch"
memory "in addition a task with Jobs"
record stored "$(k get prewarmtasks -o name | wc -l)" "$(k get deployments -o name | wc -l)"
close_watches
# By collection: kubectl sends 50 requests per second otherwise.
for path in apps/v1/namespaces/default/deployments prewarm.io/v1alpha1/namespaces/default/prewarmtasks; do
  k delete --raw "/apis/$path" > /dev/null
done
sleep 60
memory "60 s after all of it was deleted"
# What a server has after its start, for comparison.
kill "$server"
wait "$server"
serve
memory "another start"
show_server_log
