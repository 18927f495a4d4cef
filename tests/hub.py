"""A hub of repositories on loopback: the requests that `huggingface_hub` makes of one, answered from memory."""

import base64
import hashlib
import json
import re
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_never_to_be_seen_in_any_message"

_API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info|preupload|commit)/([^/]+)(/.*)?)?"
)
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Hub:
    """The server.

    Attributes:
        url: where it is.
        repositories: by kind and name, such as `datasets/me/corpus`, their files.
        private: those that are seen with `TOKEN` only.
        commits: what was committed: repository, title, and the paths that it wrote or removed.
        requests: method and path of each request.
        failures: statuses of the next answers, before any is of use.
    """

    def __init__(self):
        self.repositories = {}
        self.private = set()
        self.commits = []
        self.requests = []
        self.failures = deque()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


class _RefusedError(Exception):
    def __init__(self, status, code):
        super().__init__(code)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer()

    def do_HEAD(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def _answer(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.server_hub.requests.append(f"{self.command} {path}")
        headers = {}
        try:
            if self.server_hub.failures:
                raise _RefusedError(self.server_hub.failures.popleft(), "Unlucky")
            if found := _FILE.fullmatch(path):
                status, content, headers = self._file(f"{found[1] or 'models/'}{found[2]}", found[4])
            elif found := _API.fullmatch(path):
                told = self._api(f"{found[1]}/{found[2]}", found[3], (found[5] or "").strip("/"))
                status, content = 200, json.dumps(told).encode()
                headers["Content-Type"] = "application/json"
            elif path == "/api/validate-yaml":  # of a README.md
                status, content = 200, b'{"warnings": [], "errors": []}'
            else:
                raise _RefusedError(404, "NotFound")
        except _RefusedError as error:
            status, content, headers = error.status, b"{}", {"X-Error-Code": error.code}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _files(self, repository):
        hub = self.server_hub
        hidden = repository in hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if repository not in hub.repositories or hidden:
            raise _RefusedError(401 if hidden else 404, "RepoNotFound")
        return hub.repositories[repository]

    def _file(self, repository, name):
        files = self._files(repository)
        if name not in files:
            raise _RefusedError(404, "EntryNotFound")
        data = files[name]
        if found := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            begin, end = int(found[1]), int(found[2]) + 1
            if begin >= len(data):
                raise _RefusedError(416, "RangeNotSatisfiable")
            part = data[begin:end]
            return 206, part, {"Content-Range": f"bytes {begin}-{begin + len(part) - 1}/{len(data)}"}
        return 200, data, {"ETag": f'"{_oid(data)}"'}

    def _api(self, repository, what, path):
        files = self._files(repository)
        name = repository.partition("/")[2]
        if what in (None, "revision"):
            basics = {"private": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": []}
            return {"id": name, "sha": "0" * 40, **basics}
        if what == "tree":
            deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
            return self._tree(files, path, deep)
        if what == "paths-info":
            asked = json.loads(self.body) if self.body[:1] == b"{" else parse_qs(self.body.decode())
            names = asked["paths"] if isinstance(asked["paths"], list) else [asked["paths"]]
            return [entry for name in names for entry in _entry(files, name)]
        if what == "preupload":
            asked = json.loads(self.body)["files"]
            return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}
        return self._commit(repository, files)

    def _tree(self, files, path, deep):
        below = f"{path}/" if path else ""
        inside = sorted(name for name in files if name.startswith(below))
        if path and not inside:
            raise _RefusedError(404, "EntryNotFound")
        names = dict.fromkeys(
            below + "/".join(name.removeprefix(below).split("/")[:depth])
            for name in inside
            for depth in range(1, (name.removeprefix(below).count("/") + 1 if deep else 1) + 1)
        )
        return [entry for name in names for entry in _entry(files, name)]

    def _commit(self, repository, files):
        header, *operations = (json.loads(line) for line in self.body.splitlines())
        changed = []
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif value["path"] in files:
                del files[value["path"]]
            else:
                raise _RefusedError(404, "EntryNotFound")
            changed.append(value["path"])
        self.server_hub.commits.append((repository, header["value"]["summary"], changed))
        url = f"{self.server_hub.url}/{repository.removeprefix('models/')}/commit/{'0' * 40}"
        return {"success": True, "commitUrl": url, "commitOid": "0" * 40, "hookOutput": ""}


def _entry(files, name):
    if name in files:
        data = files[name]
        return [{"type": "file", "path": name, "size": len(data), "oid": _oid(data)}]
    if any(other.startswith(f"{name}/") for other in files):
        return [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40}]
    return []


def _oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
