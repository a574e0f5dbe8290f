"""The machine that is measured: timing, recording, ceilings, memory, and the rows of results."""
from __future__ import annotations

import gc
import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch


@dataclass
class Row:
    """One measured case. Times are of one step, in microseconds."""

    peer: str  # softmax | lola | event
    what: str  # decode | prefill | ...
    geometry: str
    layers: int
    batch: int
    median_us: float
    tokens_per_s: float
    full: bool = False  # the batch that fills the memory
    context: int = 0  # tokens that softmax attends to
    p99_us: float = 0.0
    spread: float = 0.0  # (9th - 1st decile) / median
    samples: int = 0
    floor_us: float = 0.0  # bytes over this run's copy bandwidth, or operations over its products
    note: str = ""


@dataclass
class Results:
    """Rows as they come, printed and written at once: a run that is cut off loses nothing."""

    device: str
    torch: str
    out: Path | None = None  # without ending: .json and .md are written
    settings: dict = field(default_factory=dict)
    copy_bytes_per_s: float = 0.0
    bf16_flops_per_s: float = 0.0
    gates: list[dict] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # what was not measured, and why

    def judged(self, name: str, error: float, limit: float) -> bool:
        """Notes whether a correctness gate passes; NaN does not."""
        self.gates.append({"name": name, "error": error, "limit": limit})
        print(f"gate {name}: {error:.3g} (at most {limit:g})", flush=True)
        self.write()
        return error <= limit

    def gate(self, name: str, error: float, limit: float) -> None:
        """A gate that nothing is timed behind when it fails."""
        if not self.judged(name, error, limit):
            raise SystemExit(f"FAILED gate {name}: {error:.3g}, at most {limit:g}")

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(f"{row.peer:8} {row.what:16} {row.geometry}, {row.layers} layers, B {row.batch}"
              f"{' (full)' if row.full else ''}{f', context {row.context}' if row.context else ''}:"
              f" {row.median_us:.1f} us, {row.tokens_per_s:.1f} tok/s, floor {row.floor_us:.1f} us"
              f" {row.note}", flush=True)
        self.write()

    def skip(self, what: str, why: str) -> None:
        self.missing.append(f"{what}: {why}")
        print(f"NOT MEASURED {what}: {why}", flush=True)
        self.write()

    def write(self) -> None:
        if self.out is None:
            return
        data = {key: value for key, value in asdict(self).items() if key != "out"}
        self.out.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
        lines = [f"# PyTorch peers\n\n{self.device}, PyTorch {self.torch}; copy "
                 f"{self.copy_bytes_per_s / 1e12:.3g} TB/s, bf16 products "
                 f"{self.bf16_flops_per_s / 1e12:.4g} TFLOP/s, measured in this run.\n",
                 "| peer | case | shape | B | context | us | p99 us | spread | of floor | tok/s |"
                 " how |", "|---|---|---|---|---|---|---|---|---|---|---|"]
        for r in self.rows:
            lines.append(
                f"| {r.peer} | {r.what} | {r.geometry}, {r.layers} layers | {r.batch}"
                f"{' (full)' if r.full else ''} | {r.context or ''} | {r.median_us:.1f} | "
                f"{r.p99_us:.1f} | {100 * r.spread:.1f} % | {100 * r.floor_us / r.median_us:.0f} % "
                f"| {r.tokens_per_s:.1f} | {r.note} |")
        lines += ["", *(f"- not measured: {line}" for line in self.missing), ""]
        self.out.with_suffix(".md").write_text("\n".join(lines))


class OutOfTime(Exception):
    """The budget does not allow another case."""


class Machine:
    """A GPU, or the CPU for smoke runs: there nothing is recorded and times mean nothing."""

    def __init__(self, device: str, compiled: bool, budget_s: float, tune: bool = False):
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.cuda else torch.float32
        self.compiled = compiled
        self.mode = "max-autotune-no-cudagraphs" if tune else "default"
        self.end = time.monotonic() + budget_s
        # One code object is compiled for every shape that is measured.
        torch._dynamo.config.recompile_limit = 256

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.cuda else "CPU"

    @property
    def element(self) -> int:
        return self.dtype.itemsize

    def need_time(self, seconds: float) -> None:
        if time.monotonic() + seconds > self.end:
            raise OutOfTime

    def variant(self, **changes) -> Machine:
        """The same machine with other attributes: dtype, compiled."""
        other = Machine.__new__(Machine)
        other.__dict__.update(self.__dict__, **changes)
        return other

    def compile(self, function):
        """One graph for static shapes: a graph break is an error, not a slow path."""
        if not self.compiled:
            return function
        return torch.compile(function, fullgraph=True, dynamic=False, mode=self.mode)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def free_bytes(self) -> int:
        """Of the device, with what PyTorch holds in reserve given back first."""
        if not self.cuda:
            return 1 << 22
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self.device)[0]

    def record(self, run):
        """A function that does what `run` does, as one recorded graph. Runs it three times."""
        if not self.cuda:
            return run
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(3):  # compiles, picks kernels, fills the allocator
                run()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def times(self, run, seconds: float, least: int = 10, most: int = 400,
              warm: int = 2) -> list[float]:
        """Seconds of single runs, for about `seconds` of them after `warm` and one to tell."""
        for _ in range(warm):
            run()
        self.wait()
        start = time.perf_counter()
        run()
        self.wait()
        count = int(seconds / max(time.perf_counter() - start, 1e-6))
        count = min(max(count, least), most)
        if not self.cuda:
            found = []
            for _ in range(min(count, 3)):
                start = time.perf_counter()
                run()
                found.append(time.perf_counter() - start)
            return found
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        marks[0].record()
        for mark in marks[1:]:
            run()
            mark.record()
        self.wait()
        return [a.elapsed_time(b) / 1e3 for a, b in zip(marks, marks[1:])]


def attempt(machine: Machine, results: Results, what: str, need_s: float, run, batch: int = 1,
            unit: int = 1) -> None:
    """Runs run(batch), or says why it was not measured.

    Out of memory: a sixteenth less, in multiples of `unit`, three times. Sums of what is needed
    know nothing of fragments and of kernels' workspaces.
    """
    for last in (False, False, False, True):
        gc.collect()
        if batch == 0:
            return results.skip(what, "not one stream fits")
        try:
            machine.need_time(need_s if machine.cuda else 0)
            return run(batch)
        except OutOfTime:
            return results.skip(what, "out of time")
        except torch.OutOfMemoryError as error:
            reason = str(error).splitlines()[0]
            if last or batch <= unit:
                return results.skip(what, f"B {batch}: {reason}")
        print(f"  {what}: B {batch} is too much: {reason}", flush=True)
        batch -= max(unit, batch // 16 // unit * unit)


def measured(seconds: list[float], tokens: float) -> dict:
    """The timing fields of a Row."""
    ordered = sorted(seconds)
    count, median = len(ordered), statistics.median(ordered)
    low, high = ordered[count // 10], ordered[min(count - 1, count * 9 // 10)]
    return {"median_us": 1e6 * median, "p99_us": 1e6 * ordered[min(count - 1, count * 99 // 100)],
            "spread": (high - low) / median, "samples": count, "tokens_per_s": tokens / median}


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """|got - want| / |want| over all elements, in float64 on the CPU."""
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    return float((got - want).norm() / want.norm())


def measure_ceilings(machine: Machine, results: Results) -> None:
    """Bytes copied (read plus written) and bf16 operations per second, in this run."""
    size, side = (1 << 30, 8192) if machine.cuda else (1 << 14, 64)
    source = torch.randn(size, device=machine.device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    seconds = statistics.median(machine.times(lambda: target.copy_(source), 0.3, 20))
    results.copy_bytes_per_s = 2 * source.nbytes / seconds
    del source, target
    a = torch.randn(side, side, device=machine.device, dtype=torch.bfloat16)
    b, c = torch.randn_like(a), torch.empty_like(a)
    seconds = statistics.median(machine.times(lambda: torch.mm(a, b.t(), out=c), 0.3, 20))
    results.bf16_flops_per_s = 2 * side ** 3 / seconds
    print(f"copy {results.copy_bytes_per_s / 1e12:.3g} TB/s, "
          f"bf16 {results.bf16_flops_per_s / 1e12:.4g} TFLOP/s", flush=True)
    results.write()
