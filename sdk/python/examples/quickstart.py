"""Example of the README. Uses PREWARMER_URL, PREWARMER_TOKEN and the other variables of the README."""

from prewarmer import PrewarmClient

with PrewarmClient() as client:
    task = client.create_task(images=["nginx:1.27", "redis:7.4"], node_selector={"type": "fake"})
    done = client.wait_for_completion(task.task_id, progress=True, timeout=600)
    print(f"{done.status}: {done.progress.completed_nodes} of {done.progress.total_nodes} nodes are warm")
