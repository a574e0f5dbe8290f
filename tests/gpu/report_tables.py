"""Tables beside the aims: softmax by context with the crossover, and what was left out."""
from __future__ import annotations

from geometry import GEOMETRIES, Memory
from report_data import SHAPES, Data

CLAIM = 32768  # below this context batch 1 claims nothing


def solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """A small linear system by elimination with pivots; None when it is singular."""
    rows = [line[:] + [value] for line, value in zip(matrix, right)]
    n = len(rows)
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        if abs(rows[i][i]) < 1e-30:
            return None
        for r in range(n):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [a - factor * b for a, b in zip(rows[r], rows[i])]
    return [rows[i][n] / rows[i][i] for i in range(n)]


def fit(rows: list[dict]) -> list[float] | None:
    """a, b, c of a step's seconds a + b B + c B N, least squares of relative errors."""
    points = [((1.0, float(r["batch"]), float(r["batch"]) * r["context"]), r["median_us"] / 1e6)
              for r in rows]
    if len(points) < 3:
        return None
    # Scaled by the largest of each, so that the small system is well behaved.
    scale = [max(x[i] for x, _ in points) for i in range(3)]
    parts = [[x[i] / scale[i] / t for i in range(3)] for x, t in points]
    matrix = [[sum(p[i] * p[j] for p in parts) for j in range(3)] for i in range(3)]
    solved = solve(matrix, [sum(p[i] for p in parts) for i in range(3)])
    return solved and [value / size for value, size in zip(solved, scale)]


def crossover(rows: list[dict], rate: float) -> float | None:
    """The context at which a memory full of softmax streams decodes `rate` tokens per second."""
    found = fit(rows)
    capacity = max((r["batch"] * r["context"] for r in rows if r["full"]), default=0)
    if found is None or capacity == 0:
        return None
    a, b, c = found
    # rate = B / (a + b B + c B N) with B N = capacity.
    if 1 - b * rate <= 0:
        return None
    batch = rate * (a + c * capacity) / (1 - b * rate)
    return capacity / batch if batch > 0 else None


def by_bytes(shape: str) -> float:
    """The context whose keys and values are as many bytes as a LoLA step reads."""
    g = GEOMETRIES[shape]
    return Memory().read_bytes(g, 2) / g.kv_bytes(2)


def softmax_table(data: Data, shape: str) -> list[str]:
    rows = [r for r in data.peers if r["peer"] == "softmax" and r["geometry"] == shape]
    if not rows:
        return []
    lines = [f"## {shape}: LoLA (ours) against softmax (PyTorch SDPA)", "",
             "| context | batch | softmax tok/s | of its bytes | LoLA batch | LoLA tok/s | ratio |",
             "|---|---|---|---|---|---|---|"]
    for r in sorted(rows, key=lambda r: (r["full"], r["context"])):
        own = data.one("mean step", shape, **({"full": True} if r["full"] else
                                              {"batch": r["batch"], "full": False}))
        rate = own and 1e6 * own.batch / own.median_us
        ratio = f"{rate / r['tokens_per_s']:.2f}" if rate else "not measured"
        if not r["full"] and r["context"] < CLAIM:
            ratio += ", no claim"
        lines.append(f"| {r['context']} | {r['batch']}{' (full)' if r['full'] else ''} | "
                     f"{r['tokens_per_s']:.1f} | {100 * r['floor_us'] / r['median_us']:.0f} % | "
                     f"{own.batch if own else ''} | {f'{rate:.1f}' if rate else ''} | {ratio} |")
    rate = data.rate(shape, full=True)
    found = crossover(rows, rate) if rate else None
    fitted = f"{found:.0f} tokens by fit of the step times" if found else "not measured by fit"
    lines += ["", f"Crossover of full memories: {fitted}; {by_bytes(shape):.0f} by bytes read.", ""]
    return lines


def lola_table(data: Data, shape: str) -> list[str]:
    rows = [r for r in data.peers if r["peer"] == "lola" and r["geometry"] == shape]
    if not rows:
        return []
    lines = [f"## {shape}: ours against LoLA in PyTorch", "",
             "| what | batch | PyTorch tok/s | how | ours tok/s | ratio |",
             "|---|---|---|---|---|---|"]
    for r in rows:
        if r["what"] == "prefill":
            own = data.one("prefill", shape)
            tokens = r["tokens_per_s"] * r["median_us"]  # of a step, the same in both
            rate = own and tokens / own.median_us
        elif r["what"] == "decode":
            rate = data.rate(shape, **({"full": True} if r["full"] else
                                       {"batch": r["batch"], "full": False}))
        else:
            continue
        shown = f"{rate:.1f} | {rate / r['tokens_per_s']:.2f}" if rate else " | not measured"
        lines.append(f"| {r['what']} | {r['batch']}{' (full)' if r['full'] else ''} | "
                     f"{r['tokens_per_s']:.1f} | {r['note']} | {shown} |")
    return lines + [""]


def markdown(data: Data) -> list[str]:
    lines = []
    for shape in SHAPES:
        lines += softmax_table(data, shape) + lola_table(data, shape)
    if data.gates:
        passed = sum(g["error"] <= g["limit"] for g in data.gates)
        lines += [f"{passed} of {len(data.gates)} correctness gates of the peers passed; a form of "
                  "attention that failed its gate was not used.", ""]
    if data.ignored:
        lines += ["Left out or not measured:", "", *(f"- {line}" for line in data.ignored), ""]
    return lines
