"""No command reaches the network: every test blocks it, in this process and in those that tests start."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

TRIES = {
    "name": "socket.getaddrinfo('localhost', 80)",
    "tcp": "socket.socket().connect(('127.0.0.1', 9))",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "server": "socket.socket().bind(('127.0.0.1', 0))",
    "url": "urllib.request.urlopen('http://127.0.0.1:9')",
}


@pytest.mark.parametrize("code", TRIES.values(), ids=TRIES)
def test_a_process_that_a_test_starts_is_cut_off(code: str):
    run = subprocess.run(  # noqa: S603
        [sys.executable, "-c", f"import socket, urllib.request\n{code}"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "the network was tried: socket." in run.stderr


def test_this_process_is_cut_off():
    with socket.socket() as mine, pytest.raises(AssertionError, match="a connection was tried"):
        mine.connect(("127.0.0.1", 9))


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="AF_UNIX")
def test_processes_of_one_program_can_talk():
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"x")
        assert other.recv(1) == b"x"
