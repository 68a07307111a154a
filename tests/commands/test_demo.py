"""The command that serves the page: where it listens, what it says, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
import uvicorn
from support.commands import outcome, succeed
from support.models import seeing

from locdiff import demo
from locdiff.web.server import is_loopback


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder of a model of words, not trained."""
    folder = tmp_path_factory.mktemp("model")
    seeing(encoder="ngrams:64", embed_dim=64).save_pretrained(folder)
    return str(folder)


def test_ctrl_c_ends_it(model):
    command = [sys.executable, "-m", "locdiff.demo", model, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        address = line.partition(" ")[0]
        assert address.startswith("http://127.0.0.1:") and line == f"{address} shows the page; Ctrl-C ends it\n"
        with urllib.request.urlopen(address) as response:
            assert b"Where on Earth?" in response.read() and "server" not in response.headers
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "ended\n", "")


@pytest.mark.parametrize("host, warned", [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_a_host_that_others_reach_is_warned_of(model, host, warned, capsys, monkeypatch):
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: served.append(sockets[0].getsockname()[0]))
    out, err = succeed(demo.main, [model, "--host", host, "--port", "0"], capsys)
    assert served == [socket.gethostbyname(host)] and err == ""
    assert len(out.splitlines()) == 2 + warned and ("warning: anybody who reaches 0.0.0.0 can use" in out) == warned


def test_a_port_that_is_taken_is_said_on_one_line(model, capsys):
    with demo.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        code, lines = outcome(demo.main, [model, "--port", str(port)], capsys)
    assert code == 2 and len(lines) == 1 and f"cannot listen at 127.0.0.1, port {port}: " in lines[0]
    assert lines[0].endswith("choose another --host or --port")


@pytest.mark.parametrize("missing, named", [("uvicorn", "uvicorn"), ("starlette.applications", "starlette")])
def test_without_the_extra_its_name_is_said(model, missing, named, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    code, lines = outcome(demo.main, [model, "--port", "0"], capsys)
    assert code == 2 and lines == [f"error: the page needs {named}: pip install -e '.[demo]'"]


def test_what_only_this_machine_reaches():
    hosts = ["127.0.0.1", "localhost", "::1", "127.9.9.9", "0.0.0.0", "::", "192.168.0.2", "example.org"]
    assert [is_loopback(host) for host in hosts] == [True] * 4 + [False] * 4
    if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6"):
        with demo.listen("::1", 0) as sock:
            assert demo.address(sock).startswith("http://[::1]:")
