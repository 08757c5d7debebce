"""Client class of a user of an image prewarm service, and its use. Only address, token and CA are added.

The class calls REST as such clients do: it polls `status` and `progress`, and expects the fields at the same places.
The second part does the same with `prewarmer.ImagePrewarmClient`, which needs no change but its import.
"""

import json
import os
import ssl
import time
import urllib.request

TLS = ssl.create_default_context(cafile=os.environ["PREWARMER_CA_FILE"])
IMAGES = ["nginx:latest", "redis:7", "postgres:14"]


class ImagePrewarmClient:
    def __init__(self, base_url):
        self.base_url = base_url.rstrip("/")

    def _call(self, method, path, payload=None):
        data = json.dumps(payload).encode() if payload else None
        request = urllib.request.Request(f"{self.base_url}{path}", data, method=method)
        request.add_header("Authorization", f"Bearer {os.environ['PREWARMER_TOKEN']}")
        if data:
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30, context=TLS) as response:
            return json.load(response)

    def create_task(self, images, batch_size=10, node_selector=None):
        payload = {"images": images, "batchSize": batch_size}
        if node_selector:
            payload["nodeSelector"] = node_selector
        return self._call("POST", "/api/v1/tasks", payload)

    def get_task(self, task_id):
        return self._call("GET", f"/api/v1/tasks/{task_id}")

    def list_tasks(self, status=None, limit=10):
        query = f"?limit={limit}" + (f"&status={status}" if status else "")
        return self._call("GET", f"/api/v1/tasks{query}")

    def cancel_task(self, task_id):
        return self._call("DELETE", f"/api/v1/tasks/{task_id}")

    def wait_for_completion(self, task_id, timeout=600, poll_interval=5):
        start = time.time()
        while time.time() - start < timeout:
            task = self.get_task(task_id)
            if task["status"] == "completed":
                return task
            if task["status"] in ("failed", "cancelled"):
                raise RuntimeError(f"Task {task['status']}: {task}")
            progress = task.get("progress", {})
            percentage = progress.get("percentage", 0)
            print(f"{percentage:.1f}% ({progress.get('completedNodes', 0)}/{progress.get('totalNodes', 0)})")
            time.sleep(poll_interval)
        raise TimeoutError(f"Task did not complete within {timeout} seconds")


def use(client, name):
    selector = {"type": "fake"}
    task = client.create_task(images=IMAGES, batch_size=40, node_selector=selector)
    result = client.wait_for_completion(task["taskId"], 600, 1)
    progress = result["progress"]
    assert progress["completedNodes"] == progress["totalNodes"] == 120, progress
    assert (progress["failedNodes"], f"{progress['percentage']:.1f}") == (0, "100.0"), progress
    assert task["taskId"] in [one["taskId"] for one in client.list_tasks("completed", 20)["tasks"]]

    # Positional arguments; a task that was cancelled is no success.
    slow = client.create_task(["slow:1"], 1, selector)
    assert client.cancel_task(slow["taskId"])["status"] == "cancelled"
    try:
        client.wait_for_completion(slow["taskId"], poll_interval=1)
    except TimeoutError:
        raise
    except Exception as error:
        assert "cancelled" in str(error), error
    else:
        raise AssertionError("a cancelled task was reported as completed")
    print(f"{name}: passed")


use(ImagePrewarmClient(os.environ["PREWARMER_URL"]), "class of the user")

from prewarmer import ImagePrewarmClient as Sdk  # noqa: E402

# The variables PREWARMER_TOKEN and PREWARMER_CA_FILE contain token and CA.
use(Sdk(os.environ["PREWARMER_URL"]), "SDK")
