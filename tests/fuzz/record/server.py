"""HTTPS server that stores each admission review in a file, and allows it.

usage: server.py PORT CERTIFICATE KEY DIRECTORY

A file is named after the operation, the kind, the subresource and the object:
create-deployment-web.json.
"""

import json
import pathlib
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The API server sends objects of at most 3 MiB, twice for an update.
MAX_BODY = 8 << 20


class Recorder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= MAX_BODY:
            self.send_error(413)
            return
        body = self.rfile.read(length)
        request = json.loads(body)["request"]
        kind = request["kind"]["kind"] + ("-" + request["subResource"] if request.get("subResource") else "")
        # Pods of one controller differ in the random end of their names only.
        metadata = (request["object"] or request["oldObject"])["metadata"]
        name = metadata.get("generateName", "").strip("-") or metadata["name"]
        path = pathlib.Path(sys.argv[4]) / f"{request['operation']}-{kind}-{name}.json".lower()
        if not path.exists():
            path.write_bytes(body)
        answer = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": request["uid"], "allowed": True}}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Recorder)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
