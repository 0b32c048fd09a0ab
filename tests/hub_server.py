"""A hub on this machine: model repositories with one revision each, read and written as the real one's are."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HubServer(ThreadingHTTPServer):
    """Serves and takes ``repositories``: id -> file -> bytes.

    Attributes:
        private: ids that are private.
        closed: whether it refuses everybody who writes.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.closed = False
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(\w+))?", path):
            files = self._files(found[1])
            if files is None:
                self._refuse(404, "RepoNotFound")
            elif found[2] not in (None, "main", _commit(files)):
                self._refuse(404, "RevisionNotFound")
            else:
                siblings = [{"rfilename": name} for name in files]
                info = {"id": found[1], "sha": _commit(files), "private": found[1] in self.server.private}
                self._answer({**info, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(\w+)", path):
            files = self._files(found[1]) or {}
            self._answer(
                [{"type": "file", "path": name, "size": len(files[name]), "oid": _oid(files[name])} for name in files]
            )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path):
            self._file(self._files(found[1]) or {}, found[3])
        else:
            self._refuse(404, "")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if self.server.closed:
            self._refuse(401, "")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked['organization']}/{asked['name']}"
            if repository in self.server.repositories:
                self._answer({"url": f"{self.server.url}/{repository}", "error": "exists"}, 409)
                return
            self.server.repositories[repository] = {".gitattributes": b""}
            if asked.get("private") or asked.get("visibility") == "private":
                self.server.private.add(repository)
            self._answer({"url": f"{self.server.url}/{repository}", "id": "1"})
        elif path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            files = self.server.repositories[found[1]]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(
                {"success": True, "commitOid": _commit(files), "commitUrl": f"{self.server.url}/{found[1]}/commit/1"}
            )
        else:
            # The card's metadata are valid.
            self._answer({"errors": [], "warnings": []})

    def _files(self, repository: str) -> dict[str, bytes] | None:
        return self.server.repositories.get(repository)

    def _file(self, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            self._refuse(404, "EntryNotFound")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(files[name])))
        self.send_header("ETag", f'"{_oid(files[name])}"')
        self.send_header("X-Repo-Commit", _commit(files))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(files[name])

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def _commit(files: dict[str, bytes]) -> str:
    return _oid(b"".join(name.encode() + content for name, content in sorted(files.items())))
