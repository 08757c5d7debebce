//! Example of each call, for a shell with the variables `API` and `TOKEN`. A test runs them all.

/// Operation ID of each call, and its example. `TASK` and `SCHEDULE` are names returned by earlier
/// calls.
pub(super) const SAMPLES: [(&str, &str); 19] = [
    (
        "create_task",
        r#"curl -sS "$API/tasks" -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \
  -H "Idempotency-Key: release-1.27" -d '{"images": ["nginx:1.27"], "batchSize": 10}'"#,
    ),
    (
        "list_tasks",
        r#"curl -sS "$API/tasks?status=running&limit=20&offset=0" -H "Authorization: Bearer $TOKEN""#,
    ),
    ("get_task", r#"curl -sS "$API/tasks/$TASK" -H "Authorization: Bearer $TOKEN""#),
    ("watch_task", r#"curl -sSN "$API/tasks/$TASK/watch" -H "Authorization: Bearer $TOKEN""#),
    ("cancel_task", r#"curl -sS -X DELETE "$API/tasks/$TASK" -H "Authorization: Bearer $TOKEN""#),
    (
        "retry_task",
        r#"curl -sS -X POST "$API/tasks/$TASK/retry" -H "Authorization: Bearer $TOKEN""#,
    ),
    (
        "extract",
        r#"kubectl create deployment web --image=nginx:1.27 --dry-run=client -o yaml |
  curl -sS "$API/tasks:extract" -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/yaml' --data-binary @-"#,
    ),
    (
        "create_schedule",
        r#"curl -sS "$API/scheduled-tasks" -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{
  "name": "nightly", "cronExpr": "30 2 * * MON-FRI", "timezone": "Europe/Berlin",
  "overlapPolicy": "skip", "timeoutSeconds": 3600, "taskConfig": {"images": ["nginx:1.27"], "batchSize": 10}}'"#,
    ),
    (
        "list_schedules",
        r#"curl -sS "$API/scheduled-tasks?enabled=true&limit=20" -H "Authorization: Bearer $TOKEN""#,
    ),
    (
        "get_schedule",
        r#"curl -sS "$API/scheduled-tasks/$SCHEDULE" -H "Authorization: Bearer $TOKEN""#,
    ),
    (
        "replace_schedule",
        r#"curl -sS -X PUT "$API/scheduled-tasks/$SCHEDULE" -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{
  "name": "nightly", "cronExpr": "@daily", "overlapPolicy": "queue", "taskConfig": {"images": ["nginx:1.27", "redis:7.4"]}}'"#,
    ),
    (
        "disable_schedule",
        r#"curl -sS -X PUT "$API/scheduled-tasks/$SCHEDULE/disable" -H "Authorization: Bearer $TOKEN""#,
    ),
    (
        "enable_schedule",
        r#"curl -sS -X PUT "$API/scheduled-tasks/$SCHEDULE/enable" -H "Authorization: Bearer $TOKEN""#,
    ),
    (
        "trigger_schedule",
        r#"curl -sS -X POST "$API/scheduled-tasks/$SCHEDULE/trigger" -H "Authorization: Bearer $TOKEN""#,
    ),
    (
        "list_executions",
        r#"curl -sS "$API/scheduled-tasks/$SCHEDULE/executions?limit=20" -H "Authorization: Bearer $TOKEN""#,
    ),
    (
        "get_execution",
        r#"curl -sS "$API/scheduled-tasks/$SCHEDULE/executions/1" -H "Authorization: Bearer $TOKEN""#,
    ),
    (
        "delete_schedule",
        r#"curl -sS -X DELETE "$API/scheduled-tasks/$SCHEDULE" -H "Authorization: Bearer $TOKEN""#,
    ),
    (
        "list_nodes",
        r#"curl -sS "$API/nodes?eligible=true&limit=100" -H "Authorization: Bearer $TOKEN""#,
    ),
    ("get_stats", r#"curl -sS "$API/stats" -H "Authorization: Bearer $TOKEN""#),
];
