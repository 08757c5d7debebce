#!/usr/bin/env python3
"""Prints the resources of the first visit of a task's page: name, bytes as served to a browser (gzip
where the server compresses) and bytes without compression, separated by tabs.

Resources are those that the HTML names, the names of the nodes that its script requests, and the
first messages of its event stream, which the server sends at once.

usage: page_weight.py URL CA.pem TOKEN NAMESPACE/TASK
"""

import html.parser
import http.client
import ssl
import sys
import zlib
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 30
# More than any answer of a page; a larger one is an error.
MAX_BYTES = 10_000_000


class Resources(html.parser.HTMLParser):
    """Collects the paths that a browser requests for the page."""

    def __init__(self):
        super().__init__()
        self.paths = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        loads = {"link": "href", "script": "src", "img": "src"}.get(tag)
        for name in filter(None, [loads, "data-src", "sse-connect"]):
            path = named.get(name)
            if path and path not in self.paths:
                self.paths.append(path)


class Server:
    def __init__(self, url, ca, token):
        self.url = urlsplit(url)
        self.trust = ssl.create_default_context(cafile=ca)
        self.token = token

    def get(self, path, compressed):
        """Returns the size of a body as it is transferred, and its text. An event stream ends with the
        task's last event, because the task has ended."""
        connection = http.client.HTTPSConnection(
            self.url.hostname, self.url.port, timeout=TIMEOUT_SECONDS, context=self.trust
        )
        stream = "/live" in path
        headers = {
            "Cookie": f"__Host-prewarmer={self.token}",
            "Accept": "text/event-stream" if stream else "*/*",
            "Accept-Encoding": "gzip" if compressed else "identity",
        }
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"GET {path}: {answer.status}")
        unzip = zlib.decompressobj(wbits=31) if answer.headers["Content-Encoding"] == "gzip" else None
        size, text = 0, b""
        while size <= MAX_BYTES:
            part = answer.read1(65536)
            size += len(part)
            text += unzip.decompress(part) if unzip else part
            # The page closes the stream at this event.
            if not part or (stream and b"event: end" in text):
                break
        else:
            raise RuntimeError(f"GET {path}: more than {MAX_BYTES} bytes")
        connection.close()
        return size, text


def main(url, ca, token, task):
    server = Server(url, ca, token)
    page = f"/ui/tasks/{task}"
    found = Resources()
    found.feed(server.get(page, compressed=False)[1].decode())
    for path in [page, *found.paths]:
        name = "page" if path == page else urlsplit(path).path.rsplit("/", 1)[-1]
        sizes = [server.get(path, compressed)[0] for compressed in (True, False)]
        print(name, *sizes, sep="\t")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(*sys.argv[1:])
