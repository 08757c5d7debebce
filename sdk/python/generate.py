#!/usr/bin/env python3
"""Writes the synchronous client, src/prewarmer/client.py, from the asynchronous one, aio.py.

usage: generate.py [FILE]    FILE is written instead of client.py

unasync is not used: it renames tokens and nothing else, so that documentation and the statements in TEXTS would need
this file too, and `make generate` would need its packages. This needs only Python 3.9.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from pathlib import Path

AIO = Path(__file__).parent / "src/prewarmer/aio.py"
CLIENT = AIO.with_name("client.py")
HEADER = "# Generated from aio.py by generate.py; do not edit.\n"

# Text of aio.py and its replacement, where the clients differ in more than names. aio.py must contain every text.
TEXTS = (
    (
        '"""Client for asyncio: the methods of `PrewarmClient` as coroutines and asynchronous iterators."""',
        '"""Synchronous client."""',
    ),
    ("import asyncio\nimport inspect\n", ""),
    ("AsyncIterator, Awaitable, Mapping", "Iterator, Mapping"),
    (
        " for one event loop, and any number of asyncio tasks in it.\n\n"
        "    Close it, or use it in an `async with` statement.",
        ", safe for use by several threads. Close it, or use it in a `with` statement.",
    ),
    ("Awaitable[None]] = staticmethod(asyncio.sleep)", "None] = staticmethod(time.sleep)"),
    ("AsyncGenerator[models.TaskView, None]", "Generator[models.TaskView, None, None]"),
    (
        "        Close the iterator if the iteration stops before the end, for example with `contextlib.aclosing`.\n",
        "",
    ),
    ("callback: function or coroutine function called", "callback: function called"),
    (
        "outcome = callback(task)\n"
        "                    if inspect.isawaitable(outcome):\n"
        "                        await outcome\n",
        "callback(task)\n",
    ),
    ("Awaitable[models.Page[Row]]", "models.Page[Row]"),
)

# Names in code, and their replacements.
NAMES = {
    "async": "",
    "await": "",
    "AsyncPrewarmClient": "PrewarmClient",
    "AsyncBaseTransport": "BaseTransport",
    "AsyncClient": "Client",
    "AsyncGenerator": "Generator",
    "AsyncIterator": "Iterator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "aiter_bytes": "iter_bytes",
    "aread": "read",
}


def synchronous(source: str) -> str:
    """Returns the source of the synchronous client. Exits with a message if aio.py has text that TEXTS does not fit."""
    for text, replacement in TEXTS:
        if text not in source:
            raise SystemExit(f"generate.py: aio.py does not contain {text!r}: change TEXTS in generate.py")
        source = source.replace(text, replacement)
    lines = source.splitlines(keepends=True)
    # From the end, so that the positions of the tokens before remain valid.
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(source).readline))):
        name = NAMES.get(token.string)
        if name is not None:
            (row, start), (_, end) = token.start, token.end
            line = lines[row - 1]
            rest = line[end:] if name else line[end:].lstrip(" ")
            lines[row - 1] = line[:start] + name + rest
    left = [line for line in lines if re.search("async|await", line, re.IGNORECASE)]
    if left:
        raise SystemExit(f"generate.py: not synchronous, add to TEXTS or NAMES in generate.py: {left[0].strip()}")
    return HEADER + "".join(lines)


if __name__ == "__main__":
    file = Path(sys.argv[1]) if sys.argv[1:] else CLIENT
    file.write_bytes(synchronous(AIO.read_text(encoding="utf-8")).encode())
