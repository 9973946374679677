"""A hub on 127.0.0.1 with the few addresses that `vatt.hub` makes huggingface_hub ask: reading a model (its list, its
files), making one, and a commit with small files inside and large ones by git LFS. It knows one token, and what it was
asked is kept."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_averysecrettokenofatest"
LICENSES = ("mit", "apache-2.0")
LARGE = ".safetensors"  # what goes by git LFS, whatever its size


@dataclass
class Repository:
    """Files by name; ``listed`` says something else of a file than it is: {"size": 1} and the like."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        return hashlib.sha1(
            repr(sorted((n, hashlib.sha1(c).hexdigest()) for n, c in self.files.items())).encode()
        ).hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        found = {"size": len(content), "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
        if name.endswith(LARGE):
            found["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return {**found, **self.listed.get(name, {})}


class FakeHub:
    """Attributes: ``repositories`` by name; ``requests``: (method, path, headers) of each; ``status``: answers all
    requests with it, if it is set, and with the headers that came in the body; ``answered``: headers of that answer;
    ``elsewhere``: files of LFS are sent from this address; ``moved``: all requests are sent to it; ``accepted``:
    headers of those who may write; ``cut``: answers to requests of which the path holds it break off in their middle;
    ``between``: files that somebody else writes just before a commit, which is then answered by ``conflict`` if it has
    named its parent; ``waited``: seconds for which the library would have slept."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.stored: dict[str, bytes] = {}
        self.status: int | None = None
        self.answered: dict[str, str] = {}
        self.elsewhere: str | None = None
        self.moved: str | None = None
        self.accepted = {f"Bearer {TOKEN}"}
        self.cut: str | None = None
        self.between: dict[str, bytes] | None = None
        self.conflict = 412
        self.waited: list[float] = []
        self.url = ""

    def asked(self, method: str) -> list[str]:
        return [path for kind, path, _ in self.requests if kind == method]


@contextmanager
def serving() -> Iterator[FakeHub]:
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, self.path, dict(self.headers)))
        if self.hub.status is not None:
            error = {"error": f"told by a rude hub: {dict(self.headers)}"}
            return self._json(error, self.hub.status, self.hub.answered)
        if self.hub.moved:
            return self._send(307, b"", {"Location": self.hub.moved + self.path})
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            known = any(
                f'license: "{name}"' in body.decode() or f'license: \\"{name}\\"' in body.decode() for name in LICENSES
            )
            errors = [] if known else [{"message": '"license" must be one of [...]'}]
            return self._json({"errors": errors, "warnings": []}, 200 if known else 400)
        if path.startswith("/lfs/"):
            if self.command == "PUT":
                self.hub.stored[parts[1]] = body
                return self._send(200, b"")
            return self._send(200, self.hub.stored[parts[1]])
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]).removesuffix(".git")
        repository = self.hub.repositories.get(name)
        told = self.headers.get("Authorization") in self.hub.accepted
        if repository is None or (repository.private and not told):
            return self._json({"error": "Repository not found"}, 404 if told else 401, {"X-Error-Code": "RepoNotFound"})
        if self.command in ("POST", "PUT") and not told:
            return self._json({"error": "who are you?"}, 403)
        if parts[0] == "api":
            return self._api(repository, name, parts[4:], body)
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        return self._file(repository, parts[3], "/".join(parts[4:]))

    def _create(self, asked: dict[str, Any]) -> None:
        if self.headers.get("Authorization") not in self.hub.accepted:
            return self._json({"error": "Invalid credentials"}, 401)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            return self._json({"error": "there already", "url": f"{self.hub.url}/{name}"}, 409)
        self.hub.repositories[name] = Repository(
            private=bool(asked.get("private")) or asked.get("visibility") == "private"
        )
        return self._json({"url": f"{self.hub.url}/{name}"})

    def _api(self, repository: Repository, name: str, rest: list[str], body: bytes) -> None:
        what = rest[0] if rest else "revision"
        revision = rest[1] if len(rest) > 1 else "main"
        if what in ("revision", "tree") and revision not in ("main", repository.commit):
            return self._json({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
        if what == "revision":
            files = [{"rfilename": name, **repository.entry(name)} for name in repository.files]
            return self._json({"id": name, "modelId": name, "sha": repository.commit, "siblings": files})
        if what == "tree":
            return self._json([self._in_tree(repository, name) for name in repository.files])
        if what == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(LARGE) else "regular" for name in names}
            return self._json(
                {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
            )
        if self.hub.between is not None:
            repository.files.update(self.hub.between)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit", repository.commit) != repository.commit:
                error = {"error": "A commit has happened since. Please refresh and try again."}
                return self._json(error, self.hub.conflict)
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.hub.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del repository.files[value["path"]]
        commit = repository.commit
        return self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})

    @staticmethod
    def _in_tree(repository: Repository, name: str) -> dict[str, Any]:
        entry = repository.entry(name)
        found = {"type": "file", "path": name, "size": entry["size"], "oid": entry["blobId"]}
        if "lfs" in entry:
            found["lfs"] = {"oid": entry["lfs"]["sha256"], "size": entry["lfs"]["size"], "pointerSize": 130}
        return found

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for item in asked["objects"]:
            action = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            objects.append(item if item["oid"] in self.hub.stored else {**item, "actions": action})
        self._json({"transfer": "basic", "objects": objects})

    def _file(self, repository: Repository, revision: str, name: str) -> None:
        if name not in repository.files:
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        content, entry = repository.files[name], repository.entry(name)
        etag = entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{etag}"', "X-Linked-Etag": f'"{etag}"'}
        headers["X-Linked-Size"] = str(entry["size"])
        if self.hub.elsewhere and "lfs" in entry:
            there = {"Location": f"{self.hub.elsewhere}/lfs/{etag}"}
            return self._send(302, b"", {**headers, **there})
        return self._send(200, content, headers)

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut and self.hub.cut in self.path:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        else:
            self.wfile.write(content)


def query(path: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(path).query)
