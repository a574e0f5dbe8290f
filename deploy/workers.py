#!/usr/bin/env python3
"""Starts one lola-worker for each GPU of this machine and keeps them running.

    deploy/workers.py -- --map deploy/config/map.json --model models/my-model
    deploy/workers.py --count 2 -- --map deploy/config/map.json        # without GPUs

Worker i serves on --port + i, its metrics on --metrics-port + i, and runs on GPU i. What follows
"--" goes to every worker. The line that begins with "workers:" is what lola-gateway wants as
--workers. A worker that dies is started again; SIGTERM or Ctrl-C lets all of them hand their
streams over and end. Code 0: ended by a signal; 1: a worker does not even start.
"""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIRST_STEPS_SECONDS = 5     # who dies sooner at its first start has a bad flag, not bad luck
RESTART_SECONDS = (1, 30)   # pause before a restart, doubled up to the second figure


def say(text):
    print(text, flush=True)


def gpus():
    """How many GPUs the NVIDIA driver shows; 0 without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


class Worker:
    """One place of a worker: its command, its process, and when it may start again."""

    def __init__(self, name, command, environment):
        self.name, self.command, self.environment = name, command, environment
        self.pause = RESTART_SECONDS[0]
        self.starts = 0
        self.due = 0.0
        self.start()

    def start(self):
        self.starts += 1
        self.begun = time.monotonic()
        # A session of its own: Ctrl-C reaches this program only, which then ends all in order.
        self.child = subprocess.Popen(self.command, env=self.environment,
                                      start_new_session=True)
        say(f"{self.name}: pid {self.child.pid}")

    def look_after(self):
        """Starts it again when it has died and its pause is over. False: it cannot even start."""
        if self.child is None:
            if time.monotonic() >= self.due:
                self.start()
            return True
        code = self.child.poll()
        if code is None:
            return True
        lived = time.monotonic() - self.begun
        say(f"{self.name}: ended with code {code} after {lived:.0f} s")
        if self.starts == 1 and lived < FIRST_STEPS_SECONDS and code > 0:
            return False
        if lived > 60:
            self.pause = RESTART_SECONDS[0]
        self.due = time.monotonic() + self.pause
        self.pause = min(self.pause * 2, RESTART_SECONDS[1])
        self.child = None
        return True

    def end(self):
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)

    def wait(self):
        if self.child is not None:
            self.child.wait()


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, help="workers; default: one for each GPU")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (127.0.0.1)")
    parser.add_argument("--port", type=int, default=50061, help="of the first worker (50061)")
    parser.add_argument("--metrics-port", type=int, default=9401,
                        help="of the first worker's metrics (9401)")
    parser.add_argument("--worker", type=pathlib.Path,
                        default=ROOT / "build" / "release" / "bin" / "lola-worker",
                        help="the program (build/release/bin/lola-worker)")
    parser.add_argument("flags", nargs="*", metavar="-- FLAGS", help="flags of every worker")
    options = parser.parse_args(arguments)
    if options.count is not None and options.count < 1:
        parser.error(f"--count: {options.count}, must be 1 or more")
    if not os.access(options.worker, os.X_OK):
        parser.error(f"--worker: {options.worker} is no program; build it first")
    return options


def commands(options, found):
    """One command for each worker."""
    for i in range(options.count or found):
        device = ["--device", str(i % found)] if found else []
        yield [str(options.worker), "--bind", f"{options.host}:{options.port + i}",
               "--metrics-bind", f"{options.host}:{options.metrics_port + i}", *device,
               *options.flags]


def environment(options, found):
    """What all workers do unless a flag or the caller says otherwise: run on the GPU, or share the
    processors out."""
    defaults = {"LOLA_BACKEND": "cuda"}
    if found == 0:
        defaults = {"LOLA_THREADS": str(max(1, (os.cpu_count() or 1) // options.count))}
    return {**defaults, **os.environ}


def main(arguments):
    options = parse(arguments)
    found = gpus()
    if options.count is None and found == 0:
        say("workers.py: no GPU found; --count N starts N workers on the processors")
        return 1
    stop = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.append(1))
    workers = [Worker(f"worker-{i}", command, environment(options, found))
               for i, command in enumerate(commands(options, found))]
    say("workers: " + ",".join(f"{options.host}:{options.port + i}" for i in range(len(workers))))
    code = 0
    while not stop and code == 0:
        if not all([worker.look_after() for worker in workers]):
            code = 1
        time.sleep(0.1)
    for worker in workers:
        worker.end()
    for worker in workers:
        worker.wait()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
