#!/usr/bin/env python3
"""Measures how long the server takes to react, with the environment of a cluster.

usage: probe.py ROUNDS           prints the medians in milliseconds, separated by a tab: from the creation
                                 of a Deployment to the creation of its task, and from the creation of a
                                 task to its first worker
       probe.py watch HOST:PORT CA.pem TOKEN NAMESPACE/TASK COUNT
                                 keeps COUNT watches of the task open over TLS; prints "open" when all
                                 of them have received an event, and ends when standard input ends

Objects appear in lists of a namespace that contains nothing else, which are requested without a pause:
the figures are up to one such request, a few milliseconds, too long.
"""

import asyncio
import ssl
import statistics
import sys
import time

from objects import Cluster

NAMESPACE = "probe"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
TASKS = f"/apis/prewarm.io/v1alpha1/namespaces/{NAMESPACE}/prewarmtasks"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
# A reaction that takes longer is a failure, not a figure.
TIMEOUT_SECONDS = 120
NODE = {"kubernetes.io/hostname": "node-0001"}
# Watches that are opened at the same time.
OPENING = 50


def milliseconds_between(cluster, path, body, awaited):
    """Creates an object, and returns the time until a list has an item. Deletes the objects of the round."""
    begun = time.monotonic()
    cluster.send("POST", path, body)
    while time.monotonic() < begun + TIMEOUT_SECONDS:
        if cluster.get(awaited)["items"]:
            took = (time.monotonic() - begun) * 1000
            clear(cluster)
            return took
    raise TimeoutError(f"no object in {awaited} after {TIMEOUT_SECONDS} s")


def react(cluster, index):
    """Returns the time from a Deployment to its task."""
    labels = {"app": f"probe-{index}"}
    container = {"name": "main", "image": f"probe-{index}:1"}
    template = {"metadata": {"labels": labels}, "spec": {"nodeSelector": NODE, "containers": [container]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": f"probe-{index}"}, "spec": spec}
    return milliseconds_between(cluster, DEPLOYMENTS, body, TASKS)


def start(cluster, index):
    """Returns the time from a task to its first worker."""
    spec = {"images": [f"started-{index}:1"], "nodeSelector": NODE, "worker": "Pod", "pullMethod": "ImageVolume"}
    body = {"apiVersion": "prewarm.io/v1alpha1", "kind": "PrewarmTask", "metadata": {"name": f"started-{index}"}, "spec": spec}
    return milliseconds_between(cluster, TASKS, body, PODS)


def clear(cluster):
    """Deletes the objects of a round, and waits for the end of their workers."""
    for path in (DEPLOYMENTS, TASKS, PODS):
        cluster.send("DELETE", path, {"gracePeriodSeconds": 0})
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while any(cluster.get(path)["items"] for path in (TASKS, PODS)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the objects in {NAMESPACE} were not deleted after {TIMEOUT_SECONDS} s")
        time.sleep(0.2)


def probe(rounds):
    cluster = Cluster()
    # Objects have names of their own in each call, because an earlier one's may still be covered.
    first = time.time_ns()
    reactions = [react(cluster, first + index) for index in range(rounds)]
    starts = [start(cluster, first + index) for index in range(rounds)]
    print(f"{statistics.median(reactions):.0f}\t{statistics.median(starts):.0f}")


async def open_watch(address, trust, token, task, limit):
    """Opens a watch and waits for its first event. Returns its connection."""
    host, port = address.rsplit(":", 1)
    async with limit:
        reader, writer = await asyncio.open_connection(host, int(port), ssl=trust)
        head = f"GET /api/v1/tasks/{task.split('/')[1]}/watch?namespace={task.split('/')[0]} HTTP/1.1\r\nHost: {address}\r\n"
        writer.write(f"{head}Authorization: Bearer {token}\r\nAccept: text/event-stream\r\n\r\n".encode())
        status = await asyncio.wait_for(reader.readline(), TIMEOUT_SECONDS)
        if b" 200 " not in status:
            raise RuntimeError(f"a watch was answered by {status!r}")
        while b"data:" not in await asyncio.wait_for(reader.readline(), TIMEOUT_SECONDS):
            pass
        return reader, writer


async def watch(address, ca, token, task, count):
    trust = ssl.create_default_context(cafile=ca)
    limit = asyncio.Semaphore(OPENING)
    watches = await asyncio.gather(*[open_watch(address, trust, token, task, limit) for _ in range(count)])
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for _, writer in watches:
        writer.transport.abort()


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].isdigit():
        probe(int(sys.argv[1]))
    elif len(sys.argv) == 7 and sys.argv[1] == "watch":
        asyncio.run(watch(*sys.argv[2:6], int(sys.argv[6])))
    else:
        sys.exit(__doc__)
