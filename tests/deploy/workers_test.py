#!/usr/bin/python3
"""deploy/workers.py with real workers on the processors: they come up, come back, and end."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from paths import BINARIES, DEPLOY, TINY_MODEL
from cluster import Cluster
from ports import reserve_port


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class WorkersTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.cluster = Cluster(BINARIES, self.folder.name, TINY_MODEL, shards=1, workers=0,
                               gateways=0)
        self.cluster.start()
        ports = [0]
        while ports != list(range(ports[0], ports[0] + 4)):  # they count up from the first
            ports = [reserve_port() for _ in range(4)]
        self.port, self.metrics = ports[0], ports[2]

    def tearDown(self):
        self.cluster.stop()
        self.folder.cleanup()

    def start(self, *flags, environment=None):
        log = pathlib.Path(self.folder.name) / "workers.log"
        with open(log, "wb") as out:
            child = subprocess.Popen(
                ["/usr/bin/python3", str(DEPLOY / "workers.py"), *flags], stdout=out, stderr=out,
                env=environment or os.environ)
        self.addCleanup(lambda: child.poll() is None and child.kill())
        return child, log

    def eventually(self, what, seconds=30):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if what():
                return True
            time.sleep(0.05)
        return False

    def flags(self, *more):
        return ["--port", str(self.port), "--metrics-port", str(self.metrics), "--worker",
                str(BINARIES / "lola-worker"), *more, "--", "--model", str(TINY_MODEL), "--map",
                str(pathlib.Path(self.folder.name) / "map.json")]

    def test_workers_come_up_come_back_and_end(self):
        child, log = self.start(*self.flags("--count", "2"), "--threads", "1")  # ours may be said
        up = lambda: listens(self.port) and listens(self.port + 1)  # noqa: E731
        self.assertTrue(self.eventually(up), log.read_text())
        text = log.read_text()
        self.assertIn(f"workers: 127.0.0.1:{self.port},127.0.0.1:{self.port + 1}", text)
        victim = int(re.search(r"worker-1: pid (\d+)", text).group(1))
        os.kill(victim, signal.SIGKILL)
        again = lambda: log.read_text().count("worker-1: pid") == 2 and up()  # noqa: E731
        self.assertTrue(self.eventually(again), log.read_text())
        self.assertEqual(log.read_text().count("worker-0: pid"), 1)
        child.send_signal(signal.SIGTERM)
        self.assertEqual(child.wait(30), 0, log.read_text())
        self.assertFalse(listens(self.port) or listens(self.port + 1))

    def test_a_bad_flag_ends_everything_at_once(self):
        child, log = self.start(*self.flags("--count", "2"), "--no-such-flag", "1")
        self.assertEqual(child.wait(30), 1)
        self.assertIn("no-such-flag", log.read_text())

    def test_without_a_gpu_the_number_must_be_said(self):
        environment = dict(os.environ, PATH=self.folder.name)  # no nvidia-smi there
        child, log = self.start(*self.flags(), environment=environment)
        self.assertEqual(child.wait(30), 1)
        self.assertIn("--count", log.read_text())


if __name__ == "__main__":
    unittest.main()
