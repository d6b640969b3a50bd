"""A small Hub on loopback: model and data repositories out of memory, with the routes that the clients ask for.

    with serve({"models/tiny/bert": {"config.json": b"..."}}) as hub:
        hub.url      # for HF_ENDPOINT
        hub.cut      # paths whose bodies break off half-way
        hub.asked    # (method, path, status) so far

Repositories have one branch, main, and one commit. With a token (`hub.token`), they can be made and written to.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
WRITE = re.compile(r"/api/repos/create|/api/models/(?P<name>[^/]+/[^/]+)/(?P<what>preupload|commit)/main")
RESOLVE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def commit_of(files: Files) -> str:
    return hashlib.sha1(b"".join(name.encode() + data for name, data in sorted(files.items()))).hexdigest()


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, repositories: dict[str, Files]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = repositories
        self.cut: set[str] = set()
        self.asked: list[tuple[str, str, int]] = []
        self.token: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := WRITE.fullmatch(path):
            self.answer_write(found["name"], found["what"])
        else:
            self.answer()

    def answer_write(self, name: str | None, what: str | None) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.token is None or self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.refuse("Unauthorized", status=401)
        elif name is None:
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.server.repositories.setdefault(f"models/{repository}", {})
            self.send_json({"url": f"{self.server.url}/{repository}", "name": repository})
        elif what == "preupload":
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            self.send_json({"files": [{**file, "shouldIgnore": False} for file in files]})
        else:
            files = self.server.repositories[f"models/{name}"]
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            commit = commit_of(files)
            self.send_json(
                {"success": True, "commitOid": commit, "commitUrl": f"{self.server.url}/{name}/commit/{commit}"}
            )

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if found := API.fullmatch(path):
            self.answer_api(*found.groups())
        elif path == "/api/validate-yaml":
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_json({"errors": [], "warnings": []})
        elif found := RESOLVE.fullmatch(path):
            self.answer_file(*found.groups())
        else:
            self.refuse("EntryNotFound")

    def repository(self, kind: str, name: str, revision: str | None) -> Files | None:
        files = self.server.repositories.get(f"{kind}/{name}")
        if files is None:
            return self.refuse("RepoNotFound")
        if revision not in (None, "main", commit_of(files)):
            return self.refuse("RevisionNotFound")
        return files

    def answer_api(self, kind: str, name: str, what: str | None, revision: str | None, below: str | None) -> None:
        files = self.repository(kind, name, revision)
        if files is None:
            return
        if what in (None, "revision"):
            siblings = [{"rfilename": path} for path in files]
            self.send_json({"id": name, "sha": commit_of(files), "siblings": siblings, "tags": [], "private": False})
            return
        entries = tree(files)
        if what == "paths-info":
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            self.send_json([entry for entry in entries if entry["path"] in asked])
            return
        prefix = f"{below}/" if below else ""
        deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        found = [entry for entry in entries if entry["path"].startswith(prefix)]
        found = [entry for entry in found if deep or "/" not in entry["path"].removeprefix(prefix)]
        self.send_json(found) if found or not below else self.refuse("EntryNotFound")

    def answer_file(self, kind: str | None, name: str, revision: str, path: str) -> None:
        files = self.repository(kind or "models", name, revision)
        if files is None:
            return
        if path not in files:
            self.refuse("EntryNotFound", commit_of(files))
            return
        data, start = files[path], 0
        if found := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(found[1])
        self.log(206 if start else 200)
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit_of(files))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        body = data[start:]
        if path in self.server.cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    def send_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.log(200)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, code: str, commit: str | None = None, status: int = 404) -> None:
        self.log(status)
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log(self, status: int) -> None:
        self.server.asked.append((self.command, unquote(urlsplit(self.path).path), status))

    def log_message(self, *args: object) -> None:
        pass


def tree(files: Files) -> list[dict[str, object]]:
    folders = {path.rsplit("/", n)[0] for path in files for n in range(1, path.count("/") + 1)}
    return [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)] + [
        {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for path, data in sorted(files.items())
    ]


@contextmanager
def serve(repositories: dict[str, Files]) -> Iterator[Hub]:
    hub = Hub(repositories)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
