"""Stand-ins of this machine for stores: the hub, by HTTP, and stores of buckets, in memory."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from fsspec.spec import AbstractFileSystem

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """As much of the hub as reading and writing repositories of `me` wants, and each of their commits."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, Files] = {"bucket": {".gitattributes": b"*.parquet filter=lfs\n"}}
        self.commits: list[list[str]] = []  # what each wrote or removed
        self.refuses = 0  # the status by which it answers commits

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub() -> Iterator[Hub]:
    """Run a hub."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


class Answer(BaseHTTPRequestHandler):
    """Answers of the hub."""

    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    WANTED = re.compile(
        r"/(?:api/)?(?:datasets/|models/)?me/([^/?]+)(?:/(tree|resolve|preupload|commit)/main/?([^?]*))?(.*)"
    )

    def do_GET(self) -> None:
        match = self.WANTED.fullmatch(self.path)
        if not match or (files := self.server.repositories.get(match[1])) is None:
            return self.answer({}, 404, "RepoNotFound")
        path = unquote(match[3] or "")
        if match[2] == "resolve":
            start, end = (re.findall(r"\d+", self.headers.get("Range", "")) or (0, len(files[path])))[:2]
            return self.send(files[path][int(start) : int(end) + 1])
        if match[2] != "tree":
            return self.answer({"id": f"me/{match[1]}", "sha": "0" * 40})
        if (found := entries(files, path, whole="recursive=true" in match[4].lower())) or not path:
            return self.answer(found)
        return self.answer({}, 404, "EntryNotFound")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match = self.WANTED.fullmatch(self.path)
        if not match:
            return self.answer({"errors": [], "warnings": []})  # the head of a card is checked
        if match[2] == "preupload":
            paths = [file["path"] for file in json.loads(body)["files"]]
            return self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        if self.server.refuses:
            return self.answer({"error": "You have exceeded the rate limit"}, self.server.refuses)
        changes, files = [json.loads(line) for line in body.splitlines()][1:], self.server.repositories[match[1]]
        self.server.commits.append([change["value"]["path"] for change in changes])
        for change in changes:
            path = change["value"]["path"]
            if change["key"] == "file":
                files[path] = base64.b64decode(change["value"]["content"])
            else:
                del files[path]
        return self.answer({"commitUrl": f"{self.server.address}/datasets/me/x/commit/0", "commitOid": "0" * 40})

    def answer(self, value: Any, status: int = 200, error: str = "") -> None:
        self.send(json.dumps(value).encode(), status, {"X-Error-Code": error} if error else {})

    def send(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def entries(files: Files, path: str, *, whole: bool) -> list[dict[str, Any]]:
    """List files and folders in a folder of a repository, or all that are below it."""
    start = f"{path}/" if path else ""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(files):
        if not name.startswith(start):
            continue
        parts = name[len(start) :].split("/")
        for depth in range(1, len(parts)) if whole else [1] * (len(parts) > 1):
            folder = start + "/".join(parts[:depth])
            found[folder] = {"type": "directory", "path": folder, "oid": "0" * 40}
        if whole or len(parts) == 1:
            oid = hashlib.sha1(files[name]).hexdigest()
            found[name] = {"type": "file", "path": name, "size": len(files[name]), "oid": oid}
    return list(found.values())


class Flat(AbstractFileSystem):  # type: ignore[misc]
    """A store of buckets and objects, without folders, which keeps its listings until they are given up."""

    buckets: dict[str, Files]
    silent = False  # whether what is below no bucket is nothing, and no error, where it is listed

    def objects(self, path: str) -> tuple[Files, str]:
        """Return the objects of a bucket, and the name of one."""
        bucket, _, name = path.partition("/")
        if bucket not in self.buckets:
            raise FileNotFoundError(f"b/{bucket}/o")
        return self.buckets[bucket], name

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        if path not in self.dircache:
            files, name = self.objects(path)
            start, found = path.removesuffix(name), entries(files, name, whole=False)
            if name in files:
                found = [{"type": "file", "path": name, "size": len(files[name]), "etag": id(files[name])}]
            self.dircache[path] = [{"size": 0, **each, "name": f"{start.rstrip('/')}/{each['path']}"} for each in found]
        if not self.dircache[path] and "/" in path:
            raise FileNotFoundError(path)
        return [each if detail else each["name"] for each in self.dircache[path]]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        folder = {"type": "directory", "name": path, "size": 0}
        return next((each for each in self.ls(path) if each["name"] == path), folder)

    def find(self, path: str, **options: Any) -> Any:
        if not self.silent:
            self.objects(self._strip_protocol(path))
        return super().find(path, **options)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        files, name = self.objects(path)
        if mode == "rb":
            if name not in files:
                raise FileNotFoundError(path)
            return io.BytesIO(files[name])
        assert mode == "wb", "no object is appended to"
        return Upload(files, name)

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        with open(lpath, "rb") as file:
            self.pipe_file(rpath, file.read())

    def _rm(self, path: str) -> None:
        files, name = self.objects(self._strip_protocol(path))
        del files[name]

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        self.buckets.setdefault(path.partition("/")[0], {})

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        self.mkdir(path)

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


class Upload(io.BytesIO):
    """An object that is there when it is whole."""

    def __init__(self, files: Files, name: str) -> None:
        super().__init__()
        self.files, self.name = files, name

    def close(self) -> None:
        if not self.closed:
            self.files[self.name] = self.getvalue()
        super().close()
