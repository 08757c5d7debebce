"""Pipeline step that warms the images of a manifest before its rollout. Exits with 0 if they are warm, else with 1.

    python ci_gate.py --success-threshold 95% --timeout 900 deployment.yaml

Uses PREWARMER_URL, PREWARMER_TOKEN and the other variables of the README.
"""

import argparse
import sys
from pathlib import Path

from prewarmer import PrewarmClient, PrewarmError

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("manifest", type=Path)
parser.add_argument("--success-threshold", default="90%", help="share of nodes that must be warm")
parser.add_argument("--timeout", type=float, default=900, help="maximum time to wait, in seconds")
arguments = parser.parse_args()


def warm(client: PrewarmClient) -> None:
    """Warms the images of every workload of the manifest, on the nodes where it may run."""
    found = client.extract(arguments.manifest.read_bytes())
    for problem in found.errors or []:
        sys.exit(f"{arguments.manifest}: document {problem.document}, line {problem.line}: {problem.message}")
    for workload in found.workloads:
        task = client.create_task(
            workload.images,
            node_selector=workload.placement.get("nodeSelector"),
            tolerations=workload.placement.get("tolerations"),
            nodes=workload.nodes,
            batch_size=50,
            success_threshold=arguments.success_threshold,
        )
        print(f"{workload.workload}: {task.task_id}")
        client.wait_for_completion(task.task_id, timeout=arguments.timeout, poll_interval=0.5, progress=True)


try:
    with PrewarmClient() as client:
        warm(client)
except PrewarmError as error:
    sys.exit(f"not warm: {error}")
print("warm")
