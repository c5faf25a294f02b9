"""A small Hub on the loopback address, for the real `huggingface_hub` client with Xet switched off.

It knows repositories, branches, commits, pull requests, LFS uploads, listings and downloads with ranges; writing needs
the token. Requests are counted, and the line can be cut at any of them (see [`HubServer.cut`]).
"""

import base64
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from .hub_store import Blob, Conflict, HubStore, Repository

TOKEN = "hf_token_of_the_tests"
LARGE_FILES = (".safetensors", ".parquet")
_MAXIMUM_BODY = 2**26


class Failure(Exception):
    """An answer other than success; `code` is what the client tells apart."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


class HubServer(ThreadingHTTPServer):
    """A Hub at a port of its own while the `with` block lasts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.store = HubStore()
        self.requests: list[str] = []
        self._cut_at: int | None = None
        self._cut_when = "before"
        self._lock = threading.Lock()

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is what is being tested."""

    @contextmanager
    def cut(self, number: int, when: str):
        """Cut the line at request `number` (from 0, counted from here on) and leave it cut while the block lasts.

        Args:
            number: the first request that gets no answer.
            when: `"before"` the server reads it, with its body `"half"` read, or `"after"` the server acted on it.
        """
        self.requests.clear()
        self._cut_at, self._cut_when = number, when
        try:
            yield
        finally:
            self._cut_at = None

    def announce(self, request: str) -> str | None:
        """Count a request. Says when the line is to be cut, None if it holds."""
        with self._lock:
            self.requests.append(request)
            number = len(self.requests) - 1
        if self._cut_at is None or number < self._cut_at:
            return None
        return self._cut_when if number == self._cut_at else "before"


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, finds its function in `_ROUTES`, writes its answer."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in two pieces waits for the client's delayed acknowledgement
    server: HubServer

    def log_message(self, *args) -> None:
        pass

    def _answer(self) -> None:
        when = self.server.announce(f"{self.command} {self.path}")
        if when == "before":
            return self._hang_up()
        length = int(self.headers.get("Content-Length") or 0)
        if when == "half" or length > _MAXIMUM_BODY:
            self.rfile.read(min(length, _MAXIMUM_BODY) // 2)
            return self._hang_up()
        self.body = self._read_chunks() if self.headers.get("Transfer-Encoding") else self.rfile.read(length)
        try:
            status, headers, content = self._route()
        except Failure as failure:
            status, headers, content = failure.status, {"X-Error-Code": failure.code}, b"{}"
        except Conflict as conflict:
            status, headers, content = 412, {}, json.dumps({"error": str(conflict)}).encode()
        if when == "after":
            return self._hang_up()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = _answer

    def _hang_up(self) -> None:
        self.close_connection = True

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _route(self) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        for methods, pattern, function in _ROUTES:
            if self.command in methods and (match := re.fullmatch(pattern, url.path)):
                if self.command not in ("GET", "HEAD") and function not in (_paths_info, _put_large_file):
                    self._require_token()
                parts = {name: unquote(value or "") for name, value in match.groupdict().items()}
                answer = function(self, **parts)
                return answer if isinstance(answer, tuple) else (200, _JSON, json.dumps(answer).encode())
        raise Failure(404, f"NoSuchRoute {self.command} {self.path}")

    def _require_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Failure(401, "Unauthorized")

    def repository(self, kind: str, repo_id: str) -> Repository:
        """The repository asked for; a private one is there for its owner only."""
        repository = self.server.store.repository(repo_id, "dataset" if kind.startswith("dataset") else "model")
        if repository is None or (repository.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            raise Failure(404, "RepoNotFound")
        return repository

    def files(self, kind: str, repo_id: str, revision: str) -> tuple[str, dict[str, Blob]]:
        """Commit id and files of a revision."""
        repository = self.repository(kind, repo_id)
        oid = repository.resolve(revision or "main")
        if oid is None:
            raise Failure(404, "RevisionNotFound")
        return oid, repository.commits[oid].files

    def json(self) -> dict:
        return json.loads(self.body or b"{}")


_JSON = {"Content-Type": "application/json"}


def _whoami(handler: _Handler) -> dict:
    handler._require_token()
    return {"type": "user", "name": "someone", "orgs": []}


def _validate_card(handler: _Handler) -> dict:
    return {"errors": [], "warnings": []}


def _create(handler: _Handler) -> tuple[int, dict, bytes]:
    asked = handler.json()
    kind = asked.get("type") or "model"
    repo_id = f"{asked.get('organization') or 'someone'}/{asked['name']}"
    is_new = handler.server.store.create(repo_id, kind, private=asked.get("visibility") == "private")
    url = f"{handler.server.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"
    return 200 if is_new else 409, _JSON, json.dumps({"url": url}).encode()


def _info(handler: _Handler, kind: str, repo_id: str, revision: str = "") -> dict:
    oid, files = handler.files(kind, repo_id, revision)
    private = handler.repository(kind, repo_id).private
    return {"id": repo_id, "sha": oid, "private": private, "tags": [], "siblings": [{"rfilename": p} for p in files]}


def _create_branch(handler: _Handler, kind: str, repo_id: str, revision: str) -> tuple[int, dict, bytes]:
    repository = handler.repository(kind, repo_id)
    with handler.server.store.lock:
        status = 409 if revision in repository.branches else 200
        repository.branches.setdefault(revision, repository.branches["main"])
    return status, _JSON, b"{}"


def _describe(path: str, files: dict[str, Blob]) -> dict | None:
    if blob := files.get(path):
        lfs = {"oid": blob.oid, "size": len(blob.content), "pointerSize": 130}
        return {"type": "file", "path": path, "size": len(blob.content), "oid": blob.oid} | (
            {"lfs": lfs} if blob.is_lfs else {}
        )
    if any(name.startswith(f"{path}/") for name in files):
        return {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
    return None


def _tree(handler: _Handler, kind: str, repo_id: str, revision: str, path: str) -> list[dict]:
    _, files = handler.files(kind, repo_id, revision)
    start = f"{path}/" if path else ""
    below = [name.removeprefix(start) for name in files if name.startswith(start)]
    if not below:
        raise Failure(404, "EntryNotFound")
    depth = None if handler.query.get("recursive", "").lower() == "true" else 1
    names = {"/".join(name.split("/")[:end]) for name in below for end in range(1, name.count("/") + 2)[:depth]}
    return [_describe(start + name, files) for name in sorted(names)]


def _paths_info(handler: _Handler, kind: str, repo_id: str, revision: str) -> list[dict]:
    _, files = handler.files(kind, repo_id, revision)
    described = (_describe(path, files) for path in parse_qs(handler.body.decode())["paths"])
    return [one for one in described if one]


def _preupload(handler: _Handler, kind: str, repo_id: str, revision: str) -> dict:
    _, files = handler.files(kind, repo_id, revision)
    return {
        "files": [
            {
                "path": asked["path"],
                "uploadMode": "lfs" if asked["path"].endswith(LARGE_FILES) else "regular",
                "shouldIgnore": False,
                "oid": files[asked["path"]].oid if asked["path"] in files else None,
            }
            for asked in handler.json()["files"]
        ]
    }


def _lfs_batch(handler: _Handler, kind: str, repo_id: str) -> dict:
    handler.repository(kind, repo_id)
    objects = []
    for asked in handler.json()["objects"]:
        if asked["oid"] not in handler.server.store.large_files:
            url = f"{handler.server.url}/lfs/{asked['oid']}"
            asked |= {"actions": {"upload": {"href": url}, "verify": {"href": f"{url}/verify"}}}
        objects.append(asked)
    return {"transfer": "basic", "objects": objects}


def _put_large_file(handler: _Handler, oid: str) -> dict:
    handler.server.store.keep_large_file(oid, handler.body)
    return {}


def _verify_large_file(handler: _Handler, oid: str) -> dict:
    if oid not in handler.server.store.large_files:
        raise Failure(404, "EntryNotFound")
    return {}


def _commit(handler: _Handler, kind: str, repo_id: str, revision: str) -> dict:
    repository = handler.repository(kind, repo_id)
    if revision not in repository.branches:
        raise Failure(404, "RevisionNotFound")
    lines = [json.loads(line) for line in handler.body.splitlines()]
    for line in lines:
        if line["key"] == "file":
            line["value"]["content"] = base64.b64decode(line["value"]["content"])
    lines[0]["value"]["pullRequest"] = "create_pr" in handler.query
    branch, oid = handler.server.store.commit(repository, revision, lines)
    page = f"{handler.server.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"
    pull_request = f"{page}/discussions/{branch.removeprefix('refs/pr/')}" if branch != revision else None
    return {"commitUrl": f"{page}/commit/{oid}", "commitOid": oid, "pullRequestUrl": pull_request}


def _download(handler: _Handler, kind: str, repo_id: str, revision: str, path: str) -> tuple[int, dict, bytes]:
    """The content, or the range of it that was asked for."""
    oid, files = handler.files(kind, repo_id, revision)
    if path not in files:
        raise Failure(404, "EntryNotFound")
    content = files[path].content
    headers = {"X-Repo-Commit": oid, "ETag": f'"{files[path].oid}"', "Accept-Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range") or "")
    if asked is None:
        return 200, headers, content
    start, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
    if start > end:
        return 416, headers | {"Content-Range": f"bytes */{len(content)}"}, b""
    return 206, headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"}, content[start : end + 1]


_API = r"/api/(?P<kind>models|datasets)/(?P<repo_id>[^/]+/[^/]+)"
_PAGE = r"/(?P<kind>datasets/|)(?P<repo_id>[^/]+/[^/]+)"
_REVISION = r"/(?P<revision>[^/]+)"
_READ = ("GET", "HEAD")
_ROUTES = [
    (_READ, r"/api/whoami-v2", _whoami),
    (("POST",), r"/api/validate-yaml", _validate_card),
    (("POST",), r"/api/repos/create", _create),
    (_READ, _API, _info),
    (_READ, rf"{_API}/revision{_REVISION}", _info),
    (_READ, rf"{_API}/tree{_REVISION}(/(?P<path>.+))?", _tree),
    (("POST",), rf"{_API}/paths-info{_REVISION}", _paths_info),
    (("POST",), rf"{_API}/branch{_REVISION}", _create_branch),
    (("POST",), rf"{_API}/preupload{_REVISION}", _preupload),
    (("POST",), rf"{_API}/commit{_REVISION}", _commit),
    (("POST",), rf"{_PAGE}\.git/info/lfs/objects/batch", _lfs_batch),
    (("PUT",), r"/lfs/(?P<oid>[0-9a-f]{64})", _put_large_file),
    (("POST",), r"/lfs/(?P<oid>[0-9a-f]{64})/verify", _verify_large_file),
    (_READ, rf"{_PAGE}/resolve{_REVISION}/(?P<path>.+)", _download),
]
