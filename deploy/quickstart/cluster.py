"""Starts the system as separate processes on loopback: shards, workers, a gateway.

Everything lives in one folder: map.json, a log per process, a data folder per shard. Each process
keeps its ports when it is started again. One thread.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from ports import reserve_port

PARTITIONS = 64
START_SECONDS = 60


class StartError(Exception):
    """A process did not come up; `Cluster.show_logs` tells why."""


def _plain_environment():
    """Without the environment twins of flags: what the caller has set must not change the show."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LOLA_")}


def partition_map(shard_addresses, partitions=PARTITIONS):
    """The map file: equal ranges of partitions for the shards, in order."""
    count = len(shard_addresses)
    shards = []
    for index, address in enumerate(shard_addresses):
        first, after = partitions * index // count, partitions * (index + 1) // count
        shards.append({"id": f"shard-{index}", "address": address,
                       "partitions": [f"{first}-{after - 1}"]})
    return {"partitions": partitions, "shards": shards}


class Process:
    """One service process. `address` and `metrics` (host:port) outlive restarts."""

    def __init__(self, name, program, folder):
        self.name = name
        self.address = f"127.0.0.1:{reserve_port()}"
        self.metrics = f"127.0.0.1:{reserve_port()}"
        self.log = pathlib.Path(folder) / f"{name}.log"
        self.arguments = []
        self._program = program
        self._child = None

    @property
    def pid(self):
        return self._child.pid if self._child else None

    def running(self):
        return self._child is not None and self._child.poll() is None

    def start(self):
        command = [str(self._program), "--bind", self.address, "--metrics-bind", self.metrics,
                   *self.arguments]
        with open(self.log, "ab") as log:
            log.write((" ".join(command) + "\n").encode())
            log.flush()
            # Its own session: Ctrl-C reaches the quick start only, which then ends all in order.
            self._child = subprocess.Popen(
                command, env=_plain_environment(), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)

    def wait_listening(self, seconds=START_SECONDS):
        deadline = time.monotonic() + seconds
        host, port = self.address.split(":")
        while time.monotonic() < deadline:
            if not self.running():
                raise StartError(f"{self.name} ended with code {self._child.returncode}")
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise StartError(f"{self.name} does not listen on {self.address} after {seconds} s")

    def kill(self):
        """kill -9."""
        if self.running():
            os.kill(self.pid, signal.SIGKILL)
            self._child.wait()

    def stop(self, seconds=10):
        """SIGTERM, and SIGKILL when that does not end it in time."""
        if not self.running():
            return
        os.kill(self.pid, signal.SIGTERM)
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def resident_bytes(self):
        """Resident memory, 0 when it does not run."""
        if not self.running():
            return 0
        status = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        return int(match.group(1)) * 1024 if match else 0

    def log_tail(self, lines=15):
        try:
            text = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return "  (no log)"
        return "\n".join("  " + line for line in text[-lines:])

    def metrics_text(self):
        # No proxy: the address is loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.metrics}/metrics", timeout=5) as reply:
            return reply.read().decode()


class Cluster:
    """`shards`, `workers`, `stages`, `gateways`: lists of Process. `worker_flags` go to every
    worker."""

    def __init__(self, binaries, folder, model, shards=2, workers=2, gateways=1, threads=1,
                 worker_flags=()):
        binaries, self.folder = pathlib.Path(binaries), pathlib.Path(folder)
        for name in ("lola-memory", "lola-worker", "lola-gateway"):
            if not os.access(binaries / name, os.X_OK):
                raise StartError(f"{binaries / name} is missing: build it first")
        if not (pathlib.Path(model) / "config.json").exists():
            raise StartError(f"{model} holds no model (no config.json)")
        make = lambda kind, program, count: [  # noqa: E731
            Process(f"{kind}-{i}", binaries / program, folder) for i in range(count)]
        self._binaries, self._model, self._threads = binaries, model, threads
        self.stages = []
        self.shards = make("shard", "lola-memory", shards)
        self.workers = make("worker", "lola-worker", workers)
        self.gateways = make("gateway", "lola-gateway", gateways)
        map_file = self.folder / "map.json"
        map_file.write_text(json.dumps(partition_map([s.address for s in self.shards]), indent=1))
        for shard in self.shards:
            shard.arguments = ["--data", str(self.folder / shard.name), "--shard-id", shard.name,
                               "--map", str(map_file)]
        for worker in self.workers:
            worker.arguments = ["--model", str(model), "--map", str(map_file),
                                "--threads", str(threads), *worker_flags]
        for gateway in self.gateways:
            gateway.arguments = ["--map", str(map_file), "--workers",
                                 ",".join(w.address for w in self.workers)]

    def cut(self, index, front, layers):
        """Makes worker `index` a pipeline, before it starts: the worker has the layers `front`, one
        lola-stage each of `layers`. Returns the stages."""
        worker, stages = self.workers[index], []
        for name in layers:
            stage = Process(f"stage-{len(self.stages)}", self._binaries / "lola-stage", self.folder)
            stage.arguments = ["--model", str(self._model), "--layers", name,
                               "--threads", str(self._threads)]
            self.stages.append(stage)
            stages.append(stage)
        worker.arguments += ["--layers", front, "--stages", ",".join(s.address for s in stages)]
        return stages

    @property
    def processes(self):
        return [*self.shards, *self.stages, *self.workers, *self.gateways]

    @property
    def endpoints(self):
        return [g.address for g in self.gateways]

    def start(self):
        for process in self.processes:
            process.start()
        for process in self.processes:
            process.wait_listening()

    def wait_healthy(self, client, seconds=30):
        """Until the gateway that `client` asks sees every worker."""
        deadline = time.monotonic() + seconds
        while True:
            healthy = sum(w.healthy for w in client.workers())
            if healthy == len(self.workers):
                return
            if time.monotonic() > deadline:
                raise StartError(f"{healthy} of {len(self.workers)} workers answer the gateway")
            time.sleep(0.05)

    def stop(self):
        """Gateways first, shards last: workers hand their streams over while shards listen."""
        for process in reversed(self.processes):
            process.stop()

    def worker_at(self, address):
        return next((w for w in self.workers if w.address == address), None)

    def shard_of_partition(self, partition):
        return self.shards[next(i for i in range(len(self.shards)) if partition <
                                PARTITIONS * (i + 1) // len(self.shards))]

    def dead(self):
        return [p for p in self.processes if p.pid is not None and not p.running()]

    def show_logs(self, out=sys.stderr, only=None):
        for process in only or self.processes:
            print(f"--- {process.name} ({process.log})\n{process.log_tail()}", file=out)
