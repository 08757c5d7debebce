"""Several tasks at once, each of one image, watched as they change.

    python async_many.py --node-selector type=fake nginx:1.27 redis:7.4

Reads PREWARMER_URL, PREWARMER_TOKEN and the README's other variables.
"""

import argparse
import asyncio

from prewarmer import AsyncPrewarmClient, TaskView

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="+")
parser.add_argument("--node-selector", metavar="LABEL=VALUE", action="append", default=[])
parser.add_argument("--nodes", default="all", help="how many of the nodes: a number, a percentage, or all")
arguments = parser.parse_args()
selector = dict(one.split("=", 1) for one in arguments.node_selector)


async def warm(client: AsyncPrewarmClient, image: str) -> TaskView:
    """Warms an image, and gives the task's end."""
    task = await client.create_task([image], batch_size=40, node_selector=selector, nodes=arguments.nodes)
    async for state in client.watch_task(task.task_id):
        print(f"{image}: {state.status}, {state.progress.percentage}%")
    return await client.get_task(task.task_id)


async def main() -> None:
    """Warms all of them."""
    async with AsyncPrewarmClient() as client:
        for done in await asyncio.gather(*(warm(client, image) for image in arguments.images)):
            print(f"{done.task_id}: {done.message}")


asyncio.run(main())
