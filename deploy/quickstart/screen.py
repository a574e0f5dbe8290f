"""What the quick start prints: colours and a moving progress line on a terminal, else lines."""

import os
import sys
import time

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def human_bytes(count):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024


def human_seconds(seconds):
    if seconds < 0.0995:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


class Screen:
    def __init__(self, steps, out=None):
        self._out = out or sys.stdout
        self._terminal = self._out.isatty() and os.environ.get("TERM") != "dumb"
        self._colours = self._terminal and "NO_COLOR" not in os.environ
        self._steps, self._step = steps, 0
        self._began = self._step_began = time.monotonic()
        self._moving = False
        self._next_plain = 0.0

    def paint(self, text, style):
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colours else text

    def step(self, title):
        self._step += 1
        self._step_began = time.monotonic()
        self._next_plain = 0.0
        self.line("")
        self.line(self.paint(f"[{self._step}/{self._steps}] {title}", "bold"))

    def line(self, text="", style=None):
        self._clear()
        print(self.paint(text, style) if style else text, file=self._out, flush=True)

    def fact(self, text):
        self.line(f"      {text}")

    def passed(self, text):
        self.line("  " + self.paint("ok", "green") + f"  {text}")

    def failed(self, text):
        self.line("  " + self.paint("FAILED", "red") + f"  {text}")

    def progress(self, fraction, text):
        """Rewrites one line on a terminal; without one, a line for every fifth of the way."""
        if self._terminal:
            filled = int(24 * min(1.0, fraction))
            self._out.write("\r\x1b[2K      [" + "=" * filled + " " * (24 - filled) + f"] {text}")
            self._out.flush()
            self._moving = True
        elif fraction >= self._next_plain:
            self._next_plain = fraction + 0.2
            print(f"      {fraction:4.0%}  {text}", file=self._out, flush=True)

    def write(self, text, style=None):
        """Text as it comes, for what the model writes."""
        self._clear()
        self._out.write(self.paint(text, style) if style else text)
        self._out.flush()

    def table(self, rows):
        """rows: (what, value)."""
        width = max(len(what) for what, _ in rows)
        for what, value in rows:
            self.line(f"  {what:<{width}}  {value}")

    def seconds(self):
        return time.monotonic() - self._began

    def _clear(self):
        if self._moving:
            self._out.write("\r\x1b[2K")
            self._moving = False
