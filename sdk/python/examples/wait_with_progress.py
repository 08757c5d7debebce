"""Warms images and prints the progress (a bar on a terminal, otherwise lines), and finally the result of each image.

    python wait_with_progress.py --node-selector type=fake nginx:1.27 redis:7.4

Uses PREWARMER_URL, PREWARMER_TOKEN and the other variables of the README.
"""

import argparse

from prewarmer import PrewarmClient

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="+")
parser.add_argument("--node-selector", metavar="LABEL=VALUE", action="append", default=[])
parser.add_argument("--nodes", default="all", help="number of nodes: a number, a percentage, or all")
parser.add_argument("--batch-size", type=int, default=20)
arguments = parser.parse_args()
selector = dict(one.split("=", 1) for one in arguments.node_selector)

with PrewarmClient() as client:
    task = client.create_task(
        arguments.images, batch_size=arguments.batch_size, node_selector=selector, nodes=arguments.nodes
    )
    # A failed task is a result too.
    done = client.wait_for_completion(
        task.task_id, timeout=1800, poll_interval=0.5, progress=True, raise_on_failure=False
    )
    for image in done.image_details:
        print(f"{image.image}: warm on {image.completed_nodes} nodes, failed on {image.failed_nodes}")
    for failure in done.failed_node_details:
        print(f"{failure.node_name}: {failure.image}: {failure.reason}: {failure.message}")
