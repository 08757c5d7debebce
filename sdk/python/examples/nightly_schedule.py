"""Warms images every night: creates a schedule, or changes the schedule with the same name.

    python nightly_schedule.py --name nightly --cron "30 2 * * *" --timezone Europe/Berlin --now nginx:1.27

--now also starts an execution, and --delete deletes the schedule at the end.

Uses PREWARMER_URL, PREWARMER_TOKEN and the other variables of the README.
"""

import argparse

from prewarmer import PrewarmClient, PullPolicy, ScheduleRequest, TaskRequest

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="+")
parser.add_argument("--name", default="nightly")
parser.add_argument("--cron", default="30 2 * * *")
parser.add_argument("--timezone", default="UTC")
parser.add_argument("--node-selector", metavar="LABEL=VALUE", action="append", default=[])
parser.add_argument("--nodes", default="all", help="number of nodes: a number, a percentage, or all")
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
        # Resolves mutable tags again, to pull new versions.
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
