#!/usr/bin/env bash
# Measures resident memory of the server with finished tasks, workloads and a task on all fake
# nodes, each in addition to the previous ones. Run with the environment of a cluster.
# usage: memory.sh NODES IMAGES BATCH WORKLOADS TASKS
set -euo pipefail
cd "$(dirname "$0")/../.."
nodes=$1 images=$2 batch=$3 workloads=$4 tasks=$5
# shellcheck source=tests/measure/server.sh
. tests/measure/server.sh

record size "$nodes" "$images" "$batch" "$workloads" "$tasks"
serve
memory "idle"
task first Pod "$images" "$batch"
memory "a task with bare pods"
# Workloads whose images are already warm, so that they create no task.
since=$(now)
python3 tests/measure/objects.py deployments "$workloads" "$images"
record took workloads "$(milliseconds_since "$since")"
since=$(now)
python3 tests/measure/objects.py tasks "$tasks"
record took tasks "$(milliseconds_since "$since")"
sleep 10
memory "in addition workloads and finished tasks"
task second Job "$images" "$batch"
memory "in addition a task with Jobs"
record stored "$(k get prewarmtasks -o name | wc -l)" "$(k get deployments -o name | wc -l)"
show_server_log
