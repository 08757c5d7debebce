#!/usr/bin/env bash
# Calls of a user of an image prewarm service with curl and jq. Only address, token and CA are added,
# by the function curl. Requires the variables that tests/clients.sh exports.
set -euo pipefail
API=$PREWARMER_URL
curl() { command curl -sS --max-time 60 --cacert "$PREWARMER_CA_FILE" -H "Authorization: Bearer $PREWARMER_TOKEN" "$@"; }
fail() { echo "existing-clients: $*" >&2; exit 1; }
# is TEXT FILTER: the JSON contains what the filter states
is() { jq -e "$2" <<< "$1" > /dev/null || fail "expected $2 of $1"; }

is "$(curl "$API/healthz")" '.status == "healthy" and .kubernetes == "connected" and (.timestamp | type == "string")'

# Create, poll, list and cancel tasks.
TASK_ID=$(curl -X POST "$API/api/v1/tasks" \
  -H "Content-Type: application/json" \
  -d '{
    "images": ["nginx:latest", "redis:7", "postgres:14"],
    "batchSize": 40
  }' | jq -r .taskId)
[[ $TASK_ID == task-* ]] || fail "no task: $TASK_ID"
for (( waited = 0; ; waited++ )); do
  status=$(curl -s "$API/api/v1/tasks/$TASK_ID" | jq -r .status)
  progress=$(curl -s "$API/api/v1/tasks/$TASK_ID" | jq -r .progress.percentage)
  if [ "$status" = "completed" ]; then
    break
  elif [ "$status" = "failed" ] || (( waited > 120 )); then
    fail "the task is $status at $progress%"
  fi
  sleep 1
done
is "$(curl "$API/api/v1/tasks?status=completed&limit=20&offset=0")" \
  '.limit == 20 and .offset == 0 and .total >= 1 and (.tasks[0].progress.percentage | type == "number")'
is "$(curl -X DELETE "$API/api/v1/tasks/$TASK_ID")" '.error and .status == "completed"'
# The shortest call has no content type.
TASK_ID=$(curl -X POST "$API/api/v1/tasks" -d '{"images": ["slow:1", "redis:7"], "batchSize": 1}' | jq -r .taskId)
is "$(curl -X DELETE "$API/api/v1/tasks/$TASK_ID" | jq .)" '.taskId and .status == "cancelled" and .message'
is "$(curl "$API/api/v1/tasks/task-20240116-abc123")" '.error and .taskId == "task-20240116-abc123"'

# Schedules.
ID=$(curl -X POST "$API/api/v1/scheduled-tasks" -H "Content-Type: application/json" -d '{
  "name": "Daily Image Prewarm",
  "description": "Prewarm nginx and redis every day at midnight",
  "cronExpr": "0 0 * * *",
  "enabled": true,
  "taskConfig": {
    "images": ["nginx:latest", "redis:7"],
    "batchSize": 10,
    "priority": 1,
    "nodeSelector": {"type": "fake"},
    "maxRetries": 3,
    "retryStrategy": "linear",
    "retryDelay": 60,
    "webhookUrl": "https://hooks.example.com/notify"
  },
  "overlapPolicy": "skip",
  "timeoutSeconds": 3600
}' | jq -r .id)
[[ $ID == scheduled-task-* ]] || fail "no schedule: $ID"
SCHEDULE=$API/api/v1/scheduled-tasks/$ID
is "$(curl "$API/api/v1/scheduled-tasks?offset=0&limit=10")" '.total >= 1 and .limit == 10 and .offset == 0'
changed=$(curl -X PUT "$SCHEDULE" -H "Content-Type: application/json" -d '{
  "name": "Updated Task Name",
  "cronExpr": "0 6 * * *",
  "enabled": true,
  "taskConfig": {
    "images": ["nginx:latest"]
  },
  "overlapPolicy": "allow",
  "timeoutSeconds": 1800
}')
is "$changed" '.name == "Updated Task Name" and .timeoutSeconds == 1800 and .taskConfig.images == ["nginx:latest"]'
is "$changed" '.description != "" and .taskConfig.nodeSelector == {"type": "fake"} and .taskConfig.maxRetries == 3'
is "$changed" '.taskConfig.webhookUrl == "https://hooks.example.com/notify" and .taskConfig.retryDelay == 60'
is "$(curl "$SCHEDULE")" '.cronExpr == "0 6 * * *" and (.nextExecutionAt | type == "string")'
for action in disable enable; do
  is "$(curl -X PUT "$SCHEDULE/$action")" ".taskId == \"$ID\" and .status == \"success\" and .message"
done
run=$(curl -w '\n%{http_code}' -X POST "$SCHEDULE/trigger")
[[ ${run##*$'\n'} == 200 ]] || fail "trigger: $run"
is "${run%$'\n'*}" '(.taskId | startswith("task-")) and .status == "success" and .message'
for (( waited = 0; waited < 120; waited++ )); do
  executions=$(curl "$SCHEDULE/executions?offset=0&limit=10")
  [[ $(jq -r '.executions[0].status' <<< "$executions") != success ]] || break
  sleep 1
done
is "$executions" '.executions[0] | .id == 1 and .status == "success" and .errorMessage == "" and (.durationSeconds | type == "number")'
is "$(curl "$SCHEDULE/executions/1")" ".scheduledTaskId == \"$ID\" and .triggeredAt and .startedAt and .finishedAt"
is "$(curl -X DELETE "$SCHEDULE")" ".taskId == \"$ID\" and .status == \"success\" and .message"
echo "curl: tasks and schedules"
