"""Creates several tasks, one per image, and watches them concurrently.

    python async_many.py --node-selector type=fake nginx:1.27 redis:7.4

Uses PREWARMER_URL, PREWARMER_TOKEN and the other variables of the README.
"""

import argparse
import asyncio

from prewarmer import AsyncPrewarmClient, TaskView

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="+")
parser.add_argument("--node-selector", metavar="LABEL=VALUE", action="append", default=[])
parser.add_argument("--nodes", default="all", help="number of nodes: a number, a percentage, or all")
arguments = parser.parse_args()
selector = dict(one.split("=", 1) for one in arguments.node_selector)


async def warm(client: AsyncPrewarmClient, image: str) -> TaskView:
    """Warms an image, and returns the final state of the task."""
    task = await client.create_task([image], batch_size=40, node_selector=selector, nodes=arguments.nodes)
    async for state in client.watch_task(task.task_id):
        print(f"{image}: {state.status}, {state.progress.percentage}%")
    return await client.get_task(task.task_id)


async def main() -> None:
    """Warms all images."""
    async with AsyncPrewarmClient() as client:
        for done in await asyncio.gather(*(warm(client, image) for image in arguments.images)):
            print(f"{done.task_id}: {done.message}")


asyncio.run(main())
