"""Feeding two streams at once, LoLA and its base, while the processes' memory is watched."""

import threading
import time

from screen import human_bytes


class MemoryWatch:
    """Samples (tokens fed, resident bytes of all workers) while it runs. Use as context manager."""

    def __init__(self, processes, fed, every=0.2):
        self._processes, self._fed, self._every = processes, fed, every
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *unused):
        self._end.set()
        self._thread.join()
        self._sample()

    def latest(self):
        return self.samples[-1][1] if self.samples else 0

    def growth(self, total):
        """(bytes after a tenth of the tokens, largest later, growth as a share)."""
        early = [size for fed, size in self.samples if fed >= total * 0.1]
        if not early:
            return self.latest(), self.latest(), 0.0
        return early[0], max(early), max(early) / early[0] - 1.0

    def _run(self):
        while not self._end.wait(self._every):
            self._sample()

    def _sample(self):
        self.samples.append((self._fed(), sum(p.resident_bytes() for p in self._processes)))


class Feeder:
    """Appends pieces to one stream in its own thread."""

    def __init__(self, stream, pieces):
        self.stream, self.fed, self.error = stream, 0, None
        self._pieces = pieces
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        self._thread.start()

    def running(self):
        return self._thread.is_alive()

    def stop(self):
        self._stop.set()
        self._thread.join()

    def _run(self):
        try:
            for piece in self._pieces:
                if self._stop.is_set():
                    return
                self.fed += self.stream.append(piece).appended
        except Exception as error:  # shown by the thread that waits
            self.error = error


def feed(screen, workers, feeders, tokens, alive):
    """Runs the feeders to their end. `alive()` raises when a process has died.

    Returns (seconds, MemoryWatch). Raises the first feeder's error.
    """
    began = time.monotonic()
    first = feeders[0]
    with MemoryWatch(workers, lambda: first.fed) as watch:
        for feeder in feeders:
            feeder.start()
        try:
            while any(f.running() for f in feeders):
                time.sleep(0.1)
                alive()
                seconds = time.monotonic() - began
                slowest = min(f.fed for f in feeders)
                screen.progress(slowest / tokens, (
                    f"{slowest:,} of {tokens:,} tokens, {first.fed / seconds:,.0f} tokens/s, "
                    f"workers {human_bytes(watch.latest())} resident"))
                for feeder in feeders:
                    if feeder.error is not None:
                        raise feeder.error
        finally:
            for feeder in feeders:
                feeder.stop()
    return time.monotonic() - began, watch
