"""A stub of the Hugging Face Hub on loopback: as much of its HTTP API as creating, uploading and downloading need."""

import base64
import contextlib
import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_stub"


class StubHub:
    """Models by name, {file: bytes} each, of which some are `private`; the `requests` that came, (method, path)."""

    def __init__(self):
        self.files, self.private, self.requests = {}, set(), []

    def sha(self, name):
        """The commit of a model, which follows from its files."""
        content = sorted((path, hashlib.sha1(data).hexdigest()) for path, data in self.files[name].items())
        return hashlib.sha1(repr(content).encode()).hexdigest()

    def downloads(self):
        """The names of the files that were downloaded."""
        found = [path for method, path in self.requests if method == "GET" and "/resolve/" in path]
        return sorted(path.rpartition("/")[2] for path in found)


class Handler(BaseHTTPRequestHandler):
    """Answers as the Hub does, for the StubHub `hub`."""

    hub: StubHub

    def log_message(self, *_):
        pass

    def answer(self, body, code=200, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_any(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        parts = path.strip("/").split("/")
        if self.command == "POST" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        if path == "/api/validate-yaml":  # of the card
            return self.answer({"errors": [], "warnings": []})
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if name not in self.hub.files:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        if parts[0] == "api":
            return self.answer(self.api(name, parts[4:], data))
        return self.resolve(name, parts[4])

    do_GET = do_HEAD = do_POST = do_any

    def address(self, name):
        return "http://{}:{}/{}".format(*self.server.server_address, name)

    def create(self, wanted):
        name = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        if name in self.hub.files:
            return self.answer({"error": "You already created this model", "url": self.address(name)}, 409)
        self.hub.files[name] = {}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(name)
        return self.answer({"url": self.address(name)})

    def api(self, name, action, data):
        files = self.hub.files[name]
        match action[:1]:
            case ["preupload"]:
                paths = [file["path"] for file in json.loads(data)["files"]]
                return {"files": [{"path": path, "shouldIgnore": False, "uploadMode": "regular"} for path in paths]}
            case ["commit"]:
                for line in map(json.loads, data.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                sha = self.hub.sha(name)
                return {"commitUrl": f"{self.address(name)}/commit/{sha}", "commitOid": sha, "pullRequestUrl": None}
            case ["tree"]:
                oids = {path: hashlib.sha1(own).hexdigest() for path, own in files.items()}
                return [{"type": "file", "path": p, "size": len(files[p]), "oid": oid} for p, oid in oids.items()]
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "sha": self.hub.sha(name), "private": name in self.hub.private, "siblings": siblings}

    def resolve(self, name, path):
        if path not in self.hub.files[name]:
            return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        data = self.hub.files[name][path]
        return self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=self.hub.sha(name))


@contextlib.contextmanager
def serve():
    """Yield a StubHub and its address."""
    hub = StubHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub, "http://{}:{}".format(*server.server_address)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def only_loopback(monkeypatch):
    """Refuse every connection but those to this machine; yield the addresses that were refused."""
    refused, connect = [], socket.socket.connect

    def checked(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
            refused.append(address)
            raise OSError("no network in this test")
        return connect(self, address)

    find = socket.getaddrinfo

    def found(host, *rest, **more):
        if host not in ("127.0.0.1", "localhost", None):
            refused.append(host)
            raise OSError("no network in this test")
        return find(host, *rest, **more)

    monkeypatch.setattr(socket.socket, "connect", checked)
    monkeypatch.setattr(socket, "getaddrinfo", found)
    yield refused
