"""A web server on this machine that stands in for those that files are fetched from, with their moods."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves ``files``, by path, and continues them as a client asks.

    Attributes:
        files: what each path gives: bytes of a file, or a text, which is a web page.
        cuts: how many bytes each of the next answers gives before the connection breaks.
        redirections: where each of the next answers of a path leads; None gives the file.
        asked: of every request its path and what part of the file it asked for ("" for all).
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes | str] = {}
        self.cuts: list[int] = []
        self.redirections: dict[str, list[str | None]] = {}
        self.asked: list[tuple[str, str]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Clients break off what they do not want."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        part = self.headers.get("Range", "")
        self.server.asked.append((self.path, part))
        if (leads := self.server.redirections.get(self.path)) and (target := leads.pop(0)):
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.server.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        page = isinstance(content, str)
        body = content.encode() if isinstance(content, str) else content
        begin = int(re.fullmatch(r"bytes=(\d+)-", part)[1]) if part else 0  # type: ignore[index]
        self.send_response(206 if part else 200)
        self.send_header("Content-Type", "text/html" if page else "application/octet-stream")
        if not page:
            self.send_header("Content-Disposition", 'attachment; filename="any"')
        self.send_header("Content-Length", str(len(body) - begin))
        if part:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        rest = body[begin:]
        self.wfile.write(rest[: self.server.cuts.pop(0)] if self.server.cuts else rest)

    def log_message(self, *_: object) -> None:
        pass
