"""Has images warmed every night: makes the schedule, or changes it where there is one of that name.

    python nightly_schedule.py --name nightly --cron "30 2 * * *" --timezone Europe/Berlin --now nginx:1.27

With --now it runs at once too, and with --delete it is deleted in the end.

Reads PREWARMER_URL, PREWARMER_TOKEN and the README's other variables.
"""

import argparse

from prewarmer import PrewarmClient, PullPolicy, ScheduleRequest, TaskRequest

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="+")
parser.add_argument("--name", default="nightly")
parser.add_argument("--cron", default="30 2 * * *")
parser.add_argument("--timezone", default="UTC")
parser.add_argument("--node-selector", metavar="LABEL=VALUE", action="append", default=[])
parser.add_argument("--nodes", default="all", help="how many of the nodes: a number, a percentage, or all")
parser.add_argument("--now", action="store_true")
parser.add_argument("--delete", action="store_true")
arguments = parser.parse_args()
selector = dict(one.split("=", 1) for one in arguments.node_selector)

request = ScheduleRequest(
    name=arguments.name,
    cron_expr=arguments.cron,
    timezone=arguments.timezone,
    task_config=TaskRequest(
        images=arguments.images,
        node_selector=selector,
        nodes=arguments.nodes,
        # A tag that has moved since yesterday is what a nightly run is for.
        image_pull_policy=PullPolicy.ALWAYS,
    ),
)

with PrewarmClient() as client:
    known = [one for one in client.iter_schedules() if one.name == arguments.name]
    schedule = client.replace_schedule(known[0].id, request) if known else client.create_schedule(request)
    print(f"{schedule.id} runs next at {schedule.next_execution_at}")
    if arguments.now:
        run = client.trigger_schedule(schedule.id)
        if run.task_id:
            print(client.wait_for_completion(run.task_id, timeout=1800, poll_interval=0.5).message)
    for execution in client.iter_executions(schedule.id):
        print(f"run {execution.id}: {execution.trigger}, {execution.status}")
    if arguments.delete:
        print(client.delete_schedule(schedule.id).message)
