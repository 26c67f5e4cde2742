"""The part of wandb's server that a run needs to be taken, in memory, on the loopback device.

It keeps the history of every run, says of a run that it has what it has, and can be out of reach.
"""

import gzip
import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """A context within which it listens at `address`."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = defaultdict(list)  # of history, by run
        self.artifacts: list[str] = []
        self.ends: dict[str, int] = {}  # exit codes
        self.reachable = True
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/graphql":
                    asked = json.loads(body)
                    self.answer(lambda: {"data": server.ask(asked["query"], asked.get("variables") or {})})
                else:
                    self.answer(lambda: server.stream(self.path.split("/")[-2], json.loads(body)))

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.answer(dict)

            def answer(self, thing: Any) -> None:
                if not server.reachable:
                    self.close_connection = True
                    return
                body = json.dumps(thing()).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.http.shutdown()
        self.http.server_close()

    def steps(self, run: str) -> list[int]:
        """Of the history of a run, in the order of arrival."""
        return [json.loads(line)["_step"] for line in self.lines[run]]

    def stream(self, run: str, body: dict[str, Any]) -> dict[str, Any]:
        """Lines of files of a run; a line that comes a second time takes its place."""
        if history := body.get("files", {}).get("wandb-history.jsonl"):
            self.lines[run][history["offset"] :] = history["content"]
        if body.get("complete"):
            self.ends[run] = body["exitcode"]
        return {}

    def ask(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """Answers a query of GraphQL, known by a word of it."""
        project = {"id": "p", "name": "rlbench", "entity": {"id": "e", "name": "me"}}
        if "upsertBucket" in query:
            bucket = {"id": "QnVja2V0", "name": given["name"], "displayName": "", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket | {"historyLineCount": 0}, "inserted": True}}
        if "RunResumeStatus" in query:
            return {"model": project | {"bucket": self.known(given["name"])}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.address}/files/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": "QnVja2V0", "uploadHeaders": [], "files": files}}
        if "createArtifact(" in query:
            self.artifacts.append(given["input"]["artifactCollectionName"])
            sequence = {"id": "s", "latestArtifact": {"id": "a", "versionIndex": 0}}
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
        if "viewer" in query:
            return {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        return {"serverInfo": {"features": []}, "project": {"artifact": None}}

    def known(self, run: str) -> dict[str, Any] | None:
        """The lines there are of a run, as one that goes on has to know it."""
        if not (lines := self.lines[run]):
            return None
        return {
            "id": "QnVja2V0",
            "name": run,
            "displayName": "",
            "config": "{}",
            "summaryMetrics": lines[-1],
            "historyLineCount": len(lines),
            "historyTail": json.dumps(lines[-1:]),
            "eventsLineCount": 0,
            "eventsTail": "[]",
            "logLineCount": 0,
            "tags": [],
            "wandbConfig": json.dumps({"t": 1}),
        }
