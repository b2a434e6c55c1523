"""A server on this machine that speaks as much of the Hugging Face hub's protocol as a download needs."""

import hashlib
import http.server
import json
import re
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from web import running

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REQUEST = re.compile(r"(?:/api)?(?:/(models|datasets))?/(.+?)/(revision|tree|paths-info|resolve)/([^/]+)(?:/(.+))?")


class Hub(http.server.ThreadingHTTPServer):
    """Models and data sets by name, each a map of file names to bytes; `asked` are the files that were fetched."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.models: dict[str, dict[str, bytes]] = {}
        self.data_sets: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(http.server.BaseHTTPRequestHandler):
    """One request: what a revision is, which files it has, or one of them."""

    def do_GET(self) -> None:
        parts = REQUEST.fullmatch(urlsplit(self.path).path)
        if parts is None:  # the client also asks for what is no model's
            self.refuse(404, "EntryNotFound")
            return
        kind, name, what, revision, file = parts.groups()
        files = (self.server.data_sets if kind == "datasets" else self.server.models).get(name)
        if name in self.server.gated:
            self.refuse(403, "GatedRepo")
        elif files is None:
            self.refuse(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound")
        elif what == "revision":
            siblings = [{"rfilename": path} for path in files]
            self.give(json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        elif what == "paths-info":
            wanted = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.give(json.dumps([entry(path, files[path]) for path in files if path in wanted]).encode())
        elif what == "tree":
            self.give(json.dumps([entry(path, content) for path, content in files.items()]).encode())
        elif file not in files:
            self.refuse(404, "EntryNotFound")
        else:
            if self.command == "GET":
                self.server.asked.append(file)
            self.give(files[file])

    do_HEAD = do_POST = do_GET

    def give(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{git_id(body)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, reason: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", reason)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keeps the tests quiet."""


def entry(path: str, content: bytes) -> dict:
    """Returns a file as the listing of a revision has it."""
    return {"type": "file", "path": path, "size": len(content), "oid": git_id(content)}


def git_id(content: bytes) -> str:
    """Returns the name that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def serve() -> AbstractContextManager[Hub]:
    """Runs a hub in a thread of its own."""
    return running(Hub())


def use(server: Hub, monkeypatch, cache: str) -> None:
    """Lets the hub's client speak to a server of this machine, with an empty cache."""
    import huggingface_hub.constants as constants

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.address}/{{{template[2]}")
