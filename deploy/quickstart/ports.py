"""Ports for the servers of a local cluster that nobody else gets.

"Bind port 0, look, close" is not enough: until the server binds the port, the kernel may give it
to any outgoing connection or to another server that asks for port 0, and after kill -9 it may do
so again. These ports lie below the kernel's range for such requests, and a lock file per port
keeps programs that run side by side apart. One thread.
"""

import fcntl
import itertools
import os
import pathlib
import socket

_COUNT = 8000
_locks = []  # open files: a lock lasts as long as the program
_offsets = itertools.count(os.getpid() * 16)


def _first_port():
    """First of the _COUNT ports below those the kernel hands out by itself."""
    try:
        range_file = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
        lowest = int(range_file.read_text().split()[0])
    except OSError:
        lowest = 0
    return max(lowest - _COUNT, 10000)


def _lock(port):
    # The same files are used by tests/support/ports.cc.
    folder = pathlib.Path(f"/tmp/lola-ports-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    file = open(folder / str(port), "ab")  # noqa: SIM115 - kept open on purpose
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    _locks.append(file)
    return True


def _bindable(port):
    """Whether a server could bind it now: somebody else may listen on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def reserve_port():
    """A loopback TCP port that belongs to this program until it ends."""
    first = _first_port()
    for _ in range(_COUNT):
        port = first + next(_offsets) % _COUNT
        if _lock(port) and _bindable(port):
            return port
    raise OSError(f"no free port from {first} to {first + _COUNT - 1}")
