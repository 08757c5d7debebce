#!/usr/bin/env python3
"""Creates many objects in the cluster of the environment (CLUSTER_DIR, APISERVER_URL).

usage: objects.py deployments COUNT IMAGES [FROM]  paused Deployments without replicas, of one image app-N:1 each
       objects.py tasks COUNT [FROM]               finished tasks of 3 images on 100 nodes; every tenth failed

Creates the objects from number FROM (default: 0) to COUNT - 1.
"""

import http.client
import json
import os
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

THREADS = 8
# A request in a cluster at full load.
TIMEOUT_SECONDS = 60
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
TASKS = "/apis/prewarm.io/v1alpha1/namespaces/default/prewarmtasks"


class Cluster:
    """A connection to the API server, for one thread."""

    def __init__(self):
        folder = Path(os.environ["CLUSTER_DIR"]) / "pki"
        address = urlsplit(os.environ["APISERVER_URL"])
        trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        self.connection = http.client.HTTPSConnection(
            address.hostname, address.port, timeout=TIMEOUT_SECONDS, context=trust
        )
        self.token = (folder / "tokens.csv").read_text(encoding="utf-8").split(",")[0]

    def send(self, method, path, body, kind="application/json"):
        """Sends an object and returns the response; raises unless the API server accepted it."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 201):
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return json.loads(text)

    def get(self, path):
        return self.send("GET", path, None)


def deployment(index, images):
    labels = {"app": f"work-{index}"}
    container = {"name": "main", "image": f"app-{index % images}:1"}
    template = {"metadata": {"labels": labels}, "spec": {"nodeSelector": {"type": "fake"}, "containers": [container]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"work-{index}"},
        # Paused, so that it has no ReplicaSet: for each Deployment kube-controller-manager reads all
        # ReplicaSets of the namespace, and with 20,000 of them is busy for more than ten minutes.
        "spec": {"replicas": 0, "paused": True, "selector": {"matchLabels": labels}, "template": template},
    }


def task(index):
    images = [f"registry.example/shop/service-{image}:{index}" for image in range(3)]
    return {
        "apiVersion": "prewarm.io/v1alpha1",
        "kind": "PrewarmTask",
        "metadata": {"name": f"done-{index:05}"},
        # Not started by the server before its status is written.
        "spec": {"images": images, "suspend": True},
    }


def task_status(index):
    failed = index % 10 == 0
    warm = 10 if failed else 100
    images = task(index)["spec"]["images"]
    return {
        "status": {
            "phase": "Failed" if failed else "Completed",
            "totalNodes": 100,
            "succeededNodes": warm,
            "totalBatches": 10,
            "currentBatchIndex": 9,
            "progress": f"{warm}/100 Nodes",
            "startTime": "2026-11-21T00:00:00Z",
            "completionTime": "2026-11-21T00:10:00Z",
            "nodeStates": "s" * 100,
            "conditions": [],
            "failedNodes": [],
            "ignoredNodes": [],
            "images": [{"image": image, "succeeded": warm, "failed": 0} for image in images],
        }
    }


def create(kind, indices, images):
    cluster = Cluster()
    for index in indices:
        if kind == "deployments":
            cluster.send("POST", DEPLOYMENTS, deployment(index, images))
        else:
            cluster.send("POST", TASKS, task(index))
            path = f"{TASKS}/{task(index)['metadata']['name']}/status"
            cluster.send("PATCH", path, task_status(index), "application/merge-patch+json")


def main(arguments):
    kind, count = arguments[0], int(arguments[1])
    further = [int(argument) for argument in arguments[2:]]
    images = further.pop(0) if kind == "deployments" else 0
    first = further.pop(0) if further else 0
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(create, kind, range(first + start, count, THREADS), images) for start in range(THREADS)]:
            done.result()


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("deployments", "tasks"):
        sys.exit(__doc__)
    main(sys.argv[1:])
