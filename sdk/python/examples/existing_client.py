"""Code written for a client that returns plain dicts; only the import was changed.

Uses PREWARMER_URL, PREWARMER_TOKEN and the other variables of the README.
"""

# create_task and get_task return different classes.
# mypy: disable-error-code="assignment"

import os
import time

from prewarmer import Conflict, PrewarmClient

client = PrewarmClient(os.environ.get("PREWARMER_URL", "http://localhost:8080"))
task = client.create_task(images=["nginx:1.27", "redis:7.4"], batch_size=10, node_selector={"type": "fake"})
task_id = task["taskId"]
while True:
    task = client.get_task(task_id)
    p = task["progress"]
    print(f"{task['status']}: {p['completedNodes']}/{p['totalNodes']} ({p['percentage']}%)")
    if task["status"] in ("completed", "failed", "cancelled"):
        break
    time.sleep(1)
for t in client.list_tasks(status="completed", limit=20, offset=0)["tasks"]:
    print(t["taskId"])
try:
    client.cancel_task(task_id)
except Conflict as error:
    print(f"too late: {error.message}")
final = client.wait_for_completion(
    task_id, poll_interval=5, timeout=600, callback=lambda t: print(t["progress"]["percentage"])
)
print(final.get("failedNodeDetails"))
