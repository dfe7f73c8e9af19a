"""A stand-in for Hugging Face's hub on this machine: files in memory, faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")

PLAIN = "plain"
"""A repository whose files are served as by any other server, below ``/plain/``: without hashes."""


class Hub:
    """The stand-in.

    Attributes:
        files: by repository, the content of each file. asked: files that were sent, in order.
        lies: content that is sent for a file in place of its own, once for each entry.
        status: what everything is answered with; None = as it should be. headers: beside it.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        self.lies: dict[str, list[bytes]] = {}
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.url = ""

    def commit(self, repository: str) -> str:
        """Of what the repository holds now."""
        content = sorted(self.files[repository].items())
        return hashlib.sha1(repr(content).encode()).hexdigest()

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        if self.status is not None:
            return self.status, self.headers, b"{}"
        parts = path.split("?")[0].strip("/").split("/")
        if parts[0] == "api" and parts[1] in ("datasets", "models"):
            return self._api("/".join(parts[2:4]), parts[4:], body)
        if parts[0] == PLAIN:
            found = self.files[PLAIN].get(parts[-1])
            return (404, {}, b"") if found is None else (200, {}, found)
        if parts[0] == "datasets" and parts[3] == "resolve":
            return self._file("/".join(parts[1:3]), "/".join(parts[5:]))
        if parts[2:3] == ["resolve"]:
            return self._file("/".join(parts[:2]), "/".join(parts[4:]))
        return 404, {}, b"{}"

    def _api(
        self, repository: str, rest: list[str], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if repository not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        files = self.files[repository]
        found: Any
        if not rest or rest[0] == "revision":
            found = {
                "id": repository,
                "sha": self.commit(repository),
                "siblings": [{"rfilename": name} for name in files],
            }
        elif rest[0] == "tree":
            folder = "".join(f"{part}/" for part in rest[2:])
            found = [_entry(name, files[name]) for name in files if name.startswith(folder)]
            found += [
                {"type": "directory", "path": place, "oid": "0" * 40, "size": 0}
                for place in _folders(files)
                if place.startswith(folder)
            ]
        elif rest[0] == "paths-info":
            names = json.loads(body)["paths"] if body.startswith(b"{") else []
            found = [_entry(name, files[name]) for name in names if name in files]
            found += [
                {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
                for name in names
                if name in _folders(files)
            ]
        else:
            return 404, {}, b"{}"
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()

    def _file(self, repository: str, name: str) -> tuple[int, dict[str, str], bytes]:
        if repository not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        commit = {"X-Repo-Commit": self.commit(repository)}
        if name not in self.files[repository]:
            return 404, {**commit, "X-Error-Code": "EntryNotFound"}, b""
        content = self.files[repository][name]
        found = hashlib.sha256(content).hexdigest()
        facts = {"ETag": f'"{found}"', "X-Linked-Etag": f'"{found}"'}
        return 200, {**commit, **facts, "X-Linked-Size": str(len(content))}, content

    def sent(self, path: str, content: bytes) -> bytes:
        """What goes over the wire for a file."""
        name = path.split("?")[0].lstrip("/").split("resolve/", 1)[-1].split("/", 1)[-1]
        self.asked.append(name)
        lies = self.lies.get(name)
        return lies.pop(0) if lies else content


def _folders(files: dict[str, bytes]) -> set[str]:
    return {str(place) for name in files for place in Path(name).parents} - {"."}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha256(content).hexdigest()
    lfs = {"oid": oid, "size": len(content), "pointerSize": 130}
    return {"type": "file", "path": name, "size": len(content), "oid": oid[:40], "lfs": lfs}


@contextmanager
def serving(hub: Hub) -> Iterator[None]:
    """Answer on a port of this machine; ``hub.url`` is where."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._send(with_body=False)

        def do_GET(self) -> None:
            self._send(with_body=True)

        def do_POST(self) -> None:
            self._send(with_body=True)

        def _send(self, *, with_body: bool) -> None:
            given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, content = hub.answer(self.path, given)
            body = content
            if with_body and status == 200 and "/api/" not in self.path:
                body = hub.sent(self.path, content)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            # A server's own lie is short by its own count; through another the end is lost.
            announced = content if PLAIN in self.path or not with_body else body
            self.send_header("Content-Length", str(len(announced)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub of every client in this process, its caches empty."""
    datasets = pytest.importorskip("datasets", reason="the extra [data] is not installed")
    found = Hub()
    with serving(found):
        for module in (constants, datasets.config):
            monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr("time.sleep", lambda _: None)  # between a client's attempts
        for switch in SWITCHES:
            monkeypatch.delenv(switch, raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        files = f"{found.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
        yield found
