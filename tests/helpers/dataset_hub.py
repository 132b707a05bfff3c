"""As much of Hugging Face's hub as the library `datasets` asks of it for one data set of Parquet files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlparse

_COMMIT = "a" * 40


@contextmanager
def hub(name: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A server with the files of a data set, in the folder ``data``; yields its address, and what it is asked."""
    asked: list[str] = []
    entries = [
        {"type": "file", "path": f"data/{file}", "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
        for file, content in files.items()
    ]

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlparse(self.path).path
            asked.append(path)
            if path.startswith(f"/api/datasets/{name}/tree/"):
                self.answer(
                    entries if path.endswith("/data") else [{"type": "directory", "path": "data", "oid": "0" * 40}]
                )
            elif path.startswith(f"/api/datasets/{name}"):
                siblings = [{"rfilename": entry["path"]} for entry in entries]
                self.answer({"id": name, "sha": _COMMIT, "private": False, "tags": [], "siblings": siblings})
            elif path.startswith(f"/datasets/{name}/resolve/") and path.rpartition("/")[2] in files:
                content = files[path.rpartition("/")[2]]
                self.answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', **{"X-Repo-Commit": _COMMIT})
            else:
                self.answer({}, 404, **{"X-Error-Code": "EntryNotFound" if name in path else "RepoNotFound"})

        def answer(self, what: Any, code: int = 200, **headers: str) -> None:
            content = what if isinstance(what, bytes) else json.dumps(what).encode()
            self.send_response(code)
            for header, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
