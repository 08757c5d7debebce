"""Writes a review of about 1 MB: a recorded review with many containers and variables.

usage: large.py REVIEW OUT
"""

import json
import pathlib
import sys

review = json.loads(pathlib.Path(sys.argv[1]).read_bytes())
spec = review["request"]["object"]["spec"]["template"]["spec"]
container = spec["containers"][0]
variables = [{"name": f"V{n}", "value": "0" * 400} for n in range(20)]
spec["containers"] = [
    {**container, "name": f"c{n}", "image": f"registry.example/shop/large-{n}:1", "env": variables} for n in range(100)
]
pathlib.Path(sys.argv[2]).write_text(json.dumps(review, separators=(",", ":")))
