"""What a folder of results holds, by what was measured and not by file."""
from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))
from geometry import GEOMETRIES, Memory  # noqa: E402

SHAPES = ("llama-3.1-8b", "llama-3.2-1b")
STEP = re.compile(r"(?P<shape>[\w.-]+), (?P<layers>\d+) layers, (?P<dtype>\w+) weights"
                  r"(?P<free>, not batch-invariant)?, "
                  r"(?:B (?P<batch>\d+)(?P<full> \(full\))?|(?P<rows>\d+) tokens a step)")
LAYER = re.compile(r"(?P<shape>[\w.-]+) layer, lambda (?P<pairs>\d+), caches per (?P<sharing>\w+)"
                   r", B (?P<batch>\d+)")


@dataclass
class Own:
    """A figure of device_bench; floors are against the best ceilings that any run measured."""

    group: str
    shape: str
    batch: int  # of prefill: 1
    median_us: float
    p99_us: float
    floor_us: float
    full: bool = False
    dtype: str = "bfloat16"

    def share(self) -> float | None:
        """Of the floor."""
        return self.floor_us / self.median_us if self.floor_us > 0 else None


@dataclass
class Data:
    results: int = 0  # files with results, whatever of
    devices: list[str] = field(default_factory=list)  # all names seen
    copy_bytes_per_s: float = 0.0
    bf16_flops_per_s: float = 0.0
    own: list[Own] = field(default_factory=list)
    peers: list[dict] = field(default_factory=list)
    gates: list[dict] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Data:
        """Two passes: ceilings of all runs first."""
        data, files = cls(), []
        for path in sorted(folder.glob("*.json")):
            try:
                content = json.loads(path.read_text())
            except json.JSONDecodeError as error:
                data.ignored.append(f"{path.name}: {error}")
                continue
            if not isinstance(content, dict) or not ({"figures", "gates"} & set(content)):
                continue
            data.results += 1
            if content["device"] in ("emulation", "CPU"):
                data.ignored.append(f"{path.name}: a smoke run, its times mean nothing")
            else:
                files.append((path.name, content))
        for name, content in files:
            if content["device"] not in data.devices:
                data.devices.append(content["device"])
            data.copy_bytes_per_s = max(data.copy_bytes_per_s, content["copy_bytes_per_s"])
            data.bf16_flops_per_s = max(data.bf16_flops_per_s, content["bf16_flops_per_s"])
        if len(data.devices) > 1:
            raise SystemExit(f"{folder}: results of different machines: {data.devices}")
        for name, content in files:
            if "figures" in content:
                data.add_own(name, content)
            else:
                data.add_peers(name, content)
        return data

    def add_own(self, name: str, content: dict) -> None:
        copy = content["copy_bytes_per_s"] / self.copy_bytes_per_s
        flops = content["bf16_flops_per_s"] / self.bf16_flops_per_s
        for figure in content["figures"]:
            group, case = figure["group"], figure["case"]
            # What bounds a floor is not in the file: events may be either, so the lower one.
            scale = (flops if group.startswith("prefill") else
                     min(copy, flops) if group == "chunk event" else copy)
            times = (figure["median_us"], figure["p99_us"], figure["floor_us"] * scale)
            if step := STEP.fullmatch(case):
                shape = GEOMETRIES.get(step["shape"])
                if shape is None or step["free"]:
                    continue
                if int(step["layers"]) != shape.layers:
                    self.ignored.append(f"{name}: {case}: not the whole model")
                    continue
                self.own.append(Own(group, shape.name, int(step["batch"] or 1), *times,
                                    full=bool(step["full"]), dtype=step["dtype"]))
            elif (layer := LAYER.fullmatch(case)) and layer["pairs"] == str(Memory.pairs) and (
                    layer["sharing"] == "group"):
                self.own.append(Own(group, layer["shape"], int(layer["batch"]), *times))

    def add_peers(self, name: str, content: dict) -> None:
        self.gates += content["gates"]
        self.ignored += [f"{name}: {line}" for line in content["missing"]]
        for row in content["rows"]:
            shape = GEOMETRIES[row["geometry"]]
            if row["peer"] != "event" and row["layers"] != shape.layers:
                self.ignored.append(f"{name}: {row['peer']} {row['what']}: not the whole model")
                continue
            self.peers.append(row)

    def find(self, group: str, shape: str, dtype: str = "bfloat16", **wanted) -> list[Own]:
        return [f for f in self.own if f.group == group and f.shape == shape and f.dtype == dtype
                and all(getattr(f, name) == value for name, value in wanted.items())]

    def one(self, group: str, shape: str, **wanted) -> Own | None:
        """Of cases that were measured more than once the slowest."""
        return max(self.find(group, shape, **wanted), key=lambda f: f.median_us, default=None)

    def rate(self, shape: str, **wanted) -> float | None:
        """Tokens per second of decoding, events included."""
        step = self.one("mean step", shape, **wanted)
        return None if step is None else 1e6 * step.batch / step.median_us

    def peer(self, peer: str, what: str, shape: str, **wanted) -> dict | None:
        """Of cases that were measured more than once the fastest."""
        return min((r for r in self.peers if r["peer"] == peer and r["what"] == what
                    and r["geometry"] == shape
                    and all(r[name] == value for name, value in wanted.items())),
                   key=lambda r: r["median_us"], default=None)
