"""The network block of conftest.py holds, and lets this machine's own sockets through."""

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

OUTSIDE = "192.0.2.1"  # reserved for documentation: nobody is there, even without the block


def blocked():
    return pytest.raises(RuntimeError, match="tests run without network")


def test_names_outside_are_not_looked_up():
    for look_up in (socket.gethostbyname, lambda host: socket.getaddrinfo(host, 443)):
        with blocked():
            look_up("example.com")


@pytest.mark.parametrize("host", [OUTSIDE, "10.0.0.1", "example.com", b"example.com"])
def test_connections_outside_are_refused(host):
    with socket.socket() as plug, blocked():
        plug.connect((host, 443))
    with socket.socket() as plug, blocked():
        plug.connect_ex((host, 443))
    with blocked():
        socket.create_connection((host, 443), timeout=1)


def test_ipv6_outside_is_refused():
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with socket.socket(socket.AF_INET6) as plug, blocked():
        plug.connect(("2001:db8::1", 443, 0, 0))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_can_be_reached(host):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        answer = threading.Thread(target=lambda: server.accept()[0].sendall(b"hello"))
        answer.start()
        with socket.create_connection((host, port), timeout=5) as plug:
            assert plug.recv(5) == b"hello"
        answer.join()


def test_an_http_client_gets_nowhere():
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with blocked():
        direct.open("http://example.com", timeout=5)
    with pytest.raises(urllib.error.URLError):  # by way of the proxy that refuses
        urllib.request.build_opener().open("http://example.com", timeout=5)


def test_a_child_process_gets_nowhere_by_http():
    code = "import urllib.request as u; u.urlopen('http://example.com', timeout=5)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode != 0
    assert "refused" in child.stderr


def test_the_hub_is_offline():
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["HF_DATASETS_OFFLINE"] == "1"
    constants = pytest.importorskip("huggingface_hub.constants")
    assert constants.HF_HUB_OFFLINE


def test_shared_is_a_folder(shared):
    assert shared.is_dir()
