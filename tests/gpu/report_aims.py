"""The aims of the CUDA backend, each met, missed or not measured."""
from __future__ import annotations

from dataclasses import dataclass

from report_data import SHAPES, Data

LONG = 131072  # the context of the memory-full aim


@dataclass
class Aim:
    what: str
    where: str  # shape and batch
    wanted: str
    found: float | None
    shown: str
    verdict: str  # met | missed | not measured


def aim(what: str, where: str, found: float | None, limit: float, unit: str,
        at_least: bool) -> Aim:
    """Judges one figure; unit is "%" for shares and "x" for ratios."""
    def show(value: float) -> str:
        return f"{100 * value:.1f} %" if unit == "%" else f"{value:.2f}{unit}"

    wanted = f"{'at least' if at_least else 'at most'} {show(limit)}"
    if found is None:
        return Aim(what, where, wanted, None, "", "not measured")
    met = found >= limit if at_least else found <= limit
    return Aim(what, where, wanted, found, show(found), "met" if met else "missed")


def ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def operations(data: Data) -> list[Aim]:
    """Attention and events of one layer."""
    aims = []
    for shape in SHAPES:
        for batch, limit in ((8, 0.70), (32, 0.85), (128, 0.85), (512, 0.85)):
            found = data.one("decode attention", shape, batch=batch)
            aims.append(aim("decode attention, of copy bandwidth", f"{shape}, B {batch}",
                            found and found.share(), limit, "%", True))
    for shape in SHAPES:
        for batch in (1, 8, 32, 128):
            own = data.one("chunk event", shape, batch=batch)
            share = own and own.share()
            aims.append(aim("chunk event, times its roofline", f"{shape}, B {batch}",
                            share and 1 / share, 2.0, "x", False))
    for batch in (1, 8, 32, 128):
        own = data.one("chunk event", SHAPES[0], batch=batch)
        peer = data.peer("event", "event, operation by operation", SHAPES[0], batch=batch)
        aims.append(aim("chunk event, faster than PyTorch operation by operation",
                        f"{SHAPES[0]}, B {batch}",
                        ratio(peer and peer["median_us"], own and own.median_us), 20, "x", True))
    return aims


def steps(data: Data) -> list[Aim]:
    """Whole models."""
    aims = []
    for shape, limit in zip(SHAPES, (0.85, 0.75)):
        found = data.one("mean step", shape, batch=1, full=False)
        aims.append(aim("decode step, of its bytes", f"{shape}, B 1", found and found.share(),
                        limit, "%", True))
    for shape in SHAPES:
        whole, dense = (data.one(group, shape) for group in ("prefill", "prefill, dense part"))
        aims.append(aim("prefill, of measured bf16 products", f"{shape}, 1 stream",
                        whole and whole.share(), 0.55, "%", True))
        part = whole and dense and 1 - dense.median_us / whole.median_us
        aims.append(aim("LoLA's part of prefill", f"{shape}, 1 stream", part, 0.10, "%", False))
    for shape in SHAPES:
        found = {(f.batch, f.full): f for f in data.find("decode step", shape)}
        for batch, full in sorted(found) or [(0, False)]:
            step = found.get((batch, full))
            aims.append(aim("decode step, p99 over p50", where(shape, batch, full),
                            step and step.p99_us / step.median_us, 1.3, "x", False))
    for shape in SHAPES:
        plain, copied = (data.one(f"mean step, {how}", shape, batch=64, full=False)
                         for how in ("no snapshots", "snapshots"))
        cost = plain and copied and 1 - plain.median_us / copied.median_us
        aims.append(aim("a snapshot per 512 tokens and stream, of throughput", f"{shape}, B 64",
                        cost, 0.03, "%", False))
    return aims


def where(shape: str, batch: int, full: bool) -> str:
    return f"{shape}, B {batch}{' (full)' if full else ''}" if batch else shape


def comparisons(data: Data) -> list[Aim]:
    """Against PyTorch."""
    aims = []
    for shape in SHAPES:
        softmax = data.peer("softmax", "decode", shape, full=True, context=LONG)
        found = ratio(data.rate(shape, full=True), softmax and softmax["tokens_per_s"])
        aims.append(aim("memory full at 128K, against SDPA", shape, found, 60, "x", True))
    for shape in SHAPES:
        for batch in (1, 8, 64, None):
            wanted = {"full": True} if batch is None else {"batch": batch, "full": False}
            peer = data.peer("lola", "decode", shape, **wanted)
            found = ratio(data.rate(shape, **wanted), peer and peer["tokens_per_s"])
            aims.append(aim("decode, against LoLA in PyTorch", f"{shape}, B {batch or 'full'}",
                            found, 10, "x", True))
        own, peer = data.one("prefill", shape), data.peer("lola", "prefill", shape, batch=1)
        aims.append(aim("prefill, against LoLA in PyTorch", f"{shape}, 1 stream",
                        ratio(peer and peer["median_us"], own and own.median_us), 10, "x", True))
    return aims


def judge(data: Data) -> list[Aim]:
    return operations(data) + steps(data) + comparisons(data)


def markdown(data: Data, aims: list[Aim]) -> list[str]:
    count = {v: sum(a.verdict == v for a in aims) for v in ("met", "missed", "not measured")}
    lines = [f"# Aims on {', '.join(data.devices) or 'no GPU'}", "",
             f"{count['met']} met, {count['missed']} missed, {count['not measured']} not measured. "
             f"Best ceilings of all runs: copy {data.copy_bytes_per_s / 1e12:.3g} TB/s, bf16 "
             f"products {data.bf16_flops_per_s / 1e12:.4g} TFLOP/s. Decode rates are means over "
             "whole chunks, events included; bfloat16 weights, batch-invariant.", "",
             "| aim | where | wanted | found | |", "|---|---|---|---|---|"]
    lines += [f"| {a.what} | {a.where} | {a.wanted} | {a.shown} | {a.verdict} |" for a in aims]
    return lines
