"""What every test shares: no network, few threads, the folder with the reference tensors.

The block below is in force while test modules are imported, too. Child processes inherit the offline switches
and a proxy that refuses, so they fail at once instead of reaching out.
"""

import contextlib
import ipaddress
import os
import socket
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody answers

# Before transformers, datasets and torch are imported anywhere: they read these once.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    http_proxy=NOWHERE, https_proxy=NOWHERE, all_proxy=NOWHERE,
    HTTP_PROXY=NOWHERE, HTTPS_PROXY=NOWHERE, ALL_PROXY=NOWHERE,
    no_proxy="localhost,127.0.0.1,::1", NO_PROXY="localhost,127.0.0.1,::1",
)  # fmt: skip
# More makes small tensors slower, and timings differ from machine to machine; workers side by side have one each.
THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1)
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
# Waiting threads spin by default: on a busy machine that makes small tensors fifty times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class NetworkBlocked(RuntimeError):
    """A test tried to leave this machine. No OSError: libraries would swallow it and go on."""


def is_local(host: object) -> bool:
    """Whether a host, as socket functions take it, is this machine."""
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(host).split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def refuse(host: object) -> None:
    if not is_local(host):
        raise NetworkBlocked(f"tests run without network, but something asked for {host!r}; give it a local file")


def block_network() -> None:
    """Let sockets reach this machine only (unix sockets stay as they are)."""

    def guarded(method):
        def call(self, address, *rest):
            if self.family != getattr(socket, "AF_UNIX", None):
                refuse(address[0])
            return method(self, address, *rest)

        return call

    def guarded_by_host(function):
        def call(host, *args, **kwargs):
            refuse(host)
            return function(host, *args, **kwargs)

        return call

    def create_connection(address, *args, _real=socket.create_connection, **kwargs):
        refuse(address[0])
        return _real(address, *args, **kwargs)

    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, guarded_by_host(getattr(socket, name)))
    socket.create_connection = create_connection


block_network()

with contextlib.suppress(ImportError):
    from hypothesis import settings

    settings.register_profile("lab", deadline=None, derandomize=True, print_blob=False)
    settings.load_profile("lab")


@pytest.fixture(scope="session", autouse=True)
def few_threads() -> None:
    """The same number of threads for all, if a test module has brought torch."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(THREADS)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference tensors and public data sets that lies beside the checkout, if it does."""
    folder = Path(os.environ.get("ADAMIX_LAB_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set ADAMIX_LAB_SHARED to the one with reference/ and data/")
    return folder
