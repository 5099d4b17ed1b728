"""A model hub on this machine: the routes that huggingface_hub requests, and a separate store for large files."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Fault:
    """What the hub does wrong, and with which requests."""

    where: str
    """Part of the path."""
    times: int = 1_000_000
    method: str = "GET"
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    """Bytes of a body after which the connection is closed."""
    hang: bool = False
    """Whether to hold the connection open after the cut."""
    ignore_ranges: bool = False
    part: Callable[[int, int], tuple[int, int]] | None = None
    """What to send instead of the requested range, announced as the requested one."""
    announced: Callable[[int, int], str] | None = None
    """Another Content-Range."""
    listing: Callable[[dict[str, Any]], None] | None = None
    """Changes what the listing says."""
    body: bytes | None = None


@dataclass(frozen=True)
class RecordedRequest:
    """One request as the hub saw it."""

    server: str
    method: str
    path: str
    range: str | None
    if_range: str | None
    token: str | None
    status: int
    body: int
    """Bytes of the body that were sent."""


@dataclass
class LocalHub:
    """Repositories of a folder each, at one commit or several, and every request for them."""

    large: tuple[str, ...] = (".safetensors", ".bin")
    """Endings of the files that a store keeps, under their SHA-256."""
    tags: Callable[[bytes], str | None] = lambda data: f'"{hashlib.md5(data).hexdigest()}"'
    """Entity tag that the server of a file's bytes gives."""
    honours_if_range: bool = True
    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    references: dict[str, dict[str, str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[RecordedRequest] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    """Bytes on the wire from each of the two servers, status lines and headers included."""
    released: threading.Event = field(default_factory=threading.Event)
    hanging: threading.Event = field(default_factory=threading.Event)
    connections: list[socket.socket] = field(default_factory=list)
    uploads: Path | None = None
    """Folder for repositories that clients make; without one, nothing can be uploaded."""
    private: dict[str, bool] = field(default_factory=dict)
    """What was asked for each repository that a client made."""

    def publish(self, repository: str, folder: Path, branch: str = "main") -> str:
        """Put a folder's present content on a branch; its commit."""
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        content = "".join(f"{name} {_sha256(folder / name)}\n" for name in names)
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.commits.setdefault(repository, {})[commit] = folder
        self.references.setdefault(repository, {})[branch] = commit
        return commit

    @contextmanager
    def running(self) -> Iterator[LocalHub]:
        """Both servers, on ports of their own."""
        try:
            yield self.start()
        finally:
            self.stop()

    def start(self) -> LocalHub:
        for server in (self._hub, self._store):
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        self.released.set()
        for server in (self._hub, self._store):
            server.shutdown()
            server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @cached_property
    def _hub(self) -> ThreadingHTTPServer:
        return _server(self, "hub")

    @cached_property
    def _store(self) -> ThreadingHTTPServer:
        return _server(self, "store")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_address[1]}"

    @property
    def store_url(self) -> str:
        # Another name for the same machine: to a client, another host.
        return f"http://localhost:{self._store.server_address[1]}"

    def parts(self) -> list[RecordedRequest]:
        """Answered requests for bytes of safetensors files."""
        return [a for a in self.requests if a.method == "GET" and a.status in (200, 206) and a.range]

    def files(self) -> set[str]:
        """Names of the files of which any bytes were requested."""
        paths = [a.path for a in self.requests if a.method == "GET" and "/resolve/" in a.path]
        return {path.split("/resolve/", 1)[1].split("/", 1)[1] for path in paths}

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.where in path:
                fault.times -= 1
                return fault
        return None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _server(hub: LocalHub, name: str) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"hub": hub, "name": name})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    return server


class _Counting:
    """A stream that counts what is written."""

    def __init__(self, stream: Any, count: Callable[[int], None]) -> None:
        self._stream, self._count = stream, count

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        self._count(len(data))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    name: str
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)
        self.wfile = _Counting(self.wfile, lambda n: self.hub.sent.update({self.name: n}))  # type: ignore[assignment]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        if self.hub.uploads is None:
            self._send(403, {}, b"", Fault(""))
            return
        match path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                answer: Any = self._create(json.loads(data))
            case ["api", "models", _, _, "preupload", _]:
                names = [each["path"] for each in json.loads(data)["files"]]
                answer = {
                    "files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
                }
            case ["api", "models", owner, name, "commit", branch]:
                answer = self._commit_files(f"{owner}/{name}", branch, data)
            case ["api", "validate-yaml"]:
                answer = {"errors": [], "warnings": []}
            case _:
                self._send(404, {}, b"", Fault(""))
                return
        self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode(), Fault(""))

    def _create(self, wanted: dict[str, Any]) -> dict[str, Any]:
        repository = f"{wanted['organization']}/{wanted['name']}"
        folder = Path(str(self.hub.uploads)) / repository / "empty"
        folder.mkdir(parents=True, exist_ok=True)
        if repository not in self.hub.commits:
            self.hub.private[repository] = wanted.get("visibility") == "private"
            self.hub.publish(repository, folder)
        return {"url": f"{self.hub.url}/{repository}", "name": repository}

    def _commit_files(self, repository: str, branch: str, data: bytes) -> dict[str, Any]:
        """A commit of the files before and those that are sent, each as base64 in a line of JSON."""
        before = self.hub.commits[repository][self.hub.references[repository][branch]]
        folder = before.parent / f"commit-{len(self.hub.commits[repository])}"
        shutil.copytree(before, folder)
        for line in map(json.loads, data.splitlines()):
            if line["key"] == "file":
                path = folder / line["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        commit = self.hub.publish(repository, folder, branch)
        return {
            "success": True,
            "commitOid": commit,
            "commitUrl": f"{self.hub.url}/{repository}/commit/{commit}",
        }

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        fault = self.hub._fault(self.command, path) or Fault("")
        if fault.status is not None:
            self._send(fault.status, fault.headers, fault.body or b"", fault)
        elif path.startswith("/store/"):
            data = Path(path.removeprefix("/store/")).read_bytes()
            self._bytes(data, fault, {})
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"), fault)
        else:
            self._file(path, fault)

    def _api(self, path: str, fault: Fault) -> None:
        owner, name, *rest = path.split("/", 3)
        repository = f"{owner}/{name}"
        if repository not in self.hub.commits:
            self._send(404, {"X-Error-Code": "RepoNotFound"}, b"", fault)
            return
        commit = self._commit(repository, rest[1] if len(rest) > 1 else "main")
        if commit is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"", fault)
            return
        files = [self._listed(path, commit, repository) for path in self._names(repository, commit)]
        if rest[:1] == ["tree"]:
            answer: Any = [
                {"type": "file", "path": f["rfilename"], "size": f["size"], "oid": f["blobId"]}
                | ({"lfs": {**f["lfs"], "oid": f["lfs"]["sha256"]}} if "lfs" in f else {})
                for f in files
            ]
        else:
            answer = {"id": repository, "sha": commit, "siblings": files}
            if fault.listing is not None:
                fault.listing(answer)
        body = json.dumps(answer).encode() if fault.body is None else fault.body
        self._send(200, {"Content-Type": "application/json"}, body, fault)

    def _commit(self, repository: str, revision: str) -> str | None:
        revision = self.hub.references[repository].get(revision, revision)
        return revision if revision in self.hub.commits[repository] else None

    def _names(self, repository: str, commit: str) -> list[str]:
        folder = self.hub.commits[repository][commit]
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def _listed(self, name: str, commit: str, repository: str) -> dict[str, Any]:
        data = (self.hub.commits[repository][commit] / name).read_bytes()
        listed: dict[str, Any] = {
            "rfilename": name,
            "size": len(data),
            "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
        }
        if name.endswith(self.hub.large):
            listed["lfs"] = {
                "sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134
            }  # fmt: skip
        return listed

    def _file(self, path: str, fault: Fault) -> None:
        repository, rest = path.lstrip("/").split("/resolve/", 1)
        revision, name = rest.split("/", 1)
        commit = self._commit(repository, revision)
        file = None if commit is None else self.hub.commits[repository][commit] / name
        if file is None or not file.is_file():
            self._send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit or ""}, b"", fault)
            return
        data = file.read_bytes()
        headers = {"X-Repo-Commit": str(commit)}
        if not name.endswith(self.hub.large):
            self._bytes(data, fault, headers)
            return
        linked = {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
        location = {"Location": f"{self.hub.store_url}/store/{file}"}
        self._send(302, {**headers, **linked, **location, **fault.headers}, b"", fault)

    def _bytes(self, data: bytes, fault: Fault, headers: dict[str, str]) -> None:
        tag = self.hub.tags(data)
        headers = {**headers, **({"ETag": tag} if tag else {}), **fault.headers}
        requested, condition = self.headers.get("Range"), self.headers.get("If-Range")
        stale = condition is not None and self.hub.honours_if_range and condition != headers.get("ETag")
        data = data if fault.body is None else fault.body
        if requested is None or fault.ignore_ranges or stale:
            self._send(200, headers, data, fault)
            return
        first, last = (int(end) for end in requested.removeprefix("bytes=").split("-"))
        if first >= len(data):
            self._send(416, headers, b"", fault)
            return
        last = min(last, len(data) - 1)
        said = fault.announced(first, last) if fault.announced else f"bytes {first}-{last}/{len(data)}"
        headers.setdefault("Content-Range", said)
        if fault.part is not None:
            first, last = fault.part(first, last)
        self._send(206, headers, data[first : last + 1], fault)

    def _send(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
        sent = body if fault.cut_after is None else body[: fault.cut_after]
        self.hub.requests.append(
            RecordedRequest(
                self.name, self.command, unquote(urlsplit(self.path).path), self.headers.get("Range"),
                self.headers.get("If-Range"), self.headers.get("Authorization"), status, len(sent),
            )
        )  # fmt: skip
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(sent)
            if fault.hang:
                self.wfile.flush()
                self.hub.hanging.set()
                self.hub.released.wait()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        if len(sent) < len(body):
            self.close_connection = True
