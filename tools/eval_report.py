#!/usr/bin/env python3
"""Results of `lola eval` as one Markdown table and plots.

    eval_report.py results/*.json runs.jsonl --out report/

reads files of --out and appended lines of --json, one run each. Writes report/report.md and, for
what the files hold, recall_by_length.png, recall_by_depth.png, recall_by_distance.png and
perplexity_by_position.png. Runs of one task that differ in length only are one line of the first
plot.
"""

import argparse
import json
import math
import pathlib
import sys

FORMAT_VERSION = 1


def documents(path):
    """JSON documents of a file: one over many lines, or one a line."""
    text = path.read_text(encoding="utf-8")
    try:
        return [json.loads(text)]
    except ValueError:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        return [json.loads(line) for line in lines]


def read(path):
    """The runs of a file; SystemExit naming it when it is something else."""
    try:
        runs = documents(path)
        for results in runs:
            version = results["format_version"]
            results["identity"]["task"], results["summary"]["samples"]  # what every run has
            if version != FORMAT_VERSION:
                sys.exit(f"eval_report: {path}: format_version {version}, this tool reads "
                         f"{FORMAT_VERSION}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"eval_report: {path}: no results of lola eval ({error})")
    return runs


def length(results):
    """Tokens of the longest stream: what was asked for, or what a default became."""
    asked = int(results["identity"]["length"])
    return asked or max((s["tokens"] for s in results["samples"]), default=0)


# Settings that variant() always tells, or that follow from those it tells.
TOLD = ("mode", "profile", "window", "chunk", "cache_pairs", "cache_pairs_per_layer", "score")

# Arguments in which the runs of one line may differ.
JOINED = ("task", "length", "samples")


def tell_apart(all_results):
    """Adds to each run everything in which runs of its task and name differ: model, settings,
    weight type, texts. Only length, and how many samples were worth it there, make one line."""
    groups = {}
    for results in all_results:
        groups.setdefault((results["identity"]["task"], variant(results)), []).append(results)
    for group in groups.values():
        names = dict.fromkeys(n for results in group for n in results["identity"])
        for name in names:
            if name in JOINED or name.removeprefix("settings.") in TOLD:
                continue
            values = [r["identity"].get(name, "") for r in group]
            if len(set(values)) > 1:
                for results, value in zip(group, values):
                    shown = model_of(results) if name == "fingerprint" else value or "none"
                    results.setdefault("apart", []).append(
                        f"{name.removeprefix('settings.')} {shown}")


def model_of(results):
    """The fingerprint's beginning, and the model's name where the run tells it."""
    name = pathlib.PurePath(results.get("model", "")).name
    return results["identity"]["fingerprint"][:12] + (f" ({name})" if name else "")


def variant(results):
    """How the model remembered, in few words."""
    return ", ".join([base_variant(results), *results.get("apart", [])])


def base_variant(results):
    settings = {k[9:]: v for k, v in results["identity"].items() if k.startswith("settings.")}
    if settings["mode"] == "softmax":
        return "softmax"
    if settings["cache_pairs"] == "0" and not settings["cache_pairs_per_layer"]:
        return f"base, {settings['profile']}, eta {settings['window']}"
    pairs = settings["cache_pairs_per_layer"] or settings["cache_pairs"]
    score = "" if settings["score"] == "sre" else ", " + settings["score"]
    return f"{settings['profile']}, eta {settings['window']}, lambda {pairs}{score}"


def label(results):
    return f"{results['identity']['task']}: {variant(results)}"


def bits_per(count, unit):
    return count["bits"] / count[unit] if count[unit] else math.nan


def bits_interval(counts, total):
    """95 % interval of the mean bits per token, as if tokens were independent."""
    n = total["tokens"]
    if n < 2 or not all("squares" in c for c in counts):
        return "-"
    mean = total["bits"] / n
    variance = max(0.0, sum(c["squares"] for c in counts) - n * mean * mean) / (n - 1)
    spread = 1.959963984540054 * math.sqrt(variance / n)
    return f"{mean - spread:.4f} to {mean + spread:.4f}"


def table(all_results):
    rows = ["| task | memory | length | score % | 95 % | questions | state bytes | seed | bos | "
            "model | build |", "|---|---|---|---|---|---|---|---|---|---|---|"]
    for results in all_results:
        summary, identity = results["summary"], results["identity"]
        if "score" in summary:
            low, high = summary["wilson95"]
            score, interval = f"{summary['score']:.1f}", f"{low:.1f} to {high:.1f}"
            asked = f"{summary['questions']:,}"
        else:
            counts = summary.get("bits_by_position", [])
            total = {k: sum(c[k] for c in counts) for k in ("bits", "tokens", "bytes")}
            score = f"{bits_per(total, 'tokens'):.4f} bits/token" if counts else "-"
            interval, asked = bits_interval(counts, total), f"{total['tokens']:,} tokens"
        rows.append(f"| {identity['task']} | {variant(results)} | {length(results):,} | {score} | "
                    f"{interval} | {asked} | {results['state_bytes']:,} | {identity['seed']} | "
                    f"{identity['bos']} | `{identity['fingerprint'][:12]}` | {results['tool']} |")
    return "\n".join(rows) + "\n"


def recall_by_length(all_results):
    lines = {}
    for results in all_results:
        if "score" in results["summary"]:
            low, high = results["summary"]["wilson95"]
            score = results["summary"]["score"]
            lines.setdefault(label(results), []).append((length(results), score, low, high))
    return {name: sorted(points) for name, points in lines.items()}


def shares(tallies, places):
    """(place, percent) of the tallies that were asked."""
    return [(place, 100.0 * t["right"] / t["asked"])
            for place, t in zip(places, tallies) if t["asked"]]


def recall_by_depth(all_results):
    return {f"{label(r)}, {length(r):,}":
            shares(r["summary"]["by_depth"], [10 * i + 5 for i in range(10)])
            for r in all_results if "by_depth" in r["summary"]}


def recall_by_distance(all_results):
    return {f"{label(r)}, {length(r):,}":
            shares(r["summary"]["by_distance"], [t["from"] for t in r["summary"]["by_distance"]])
            for r in all_results if "by_distance" in r["summary"]}


def perplexity_by_position(all_results):
    return {f"{label(r)}, {length(r):,}":
            [(c["at"], bits_per(c, "tokens")) for c in r["summary"]["bits_by_position"]]
            for r in all_results if "bits_by_position" in r["summary"]}


def plot(path, lines, x_label, y_label, log_x):
    """One plot, or nothing when there is nothing to show. Points may carry (low, high)."""
    try:
        import matplotlib
    except ImportError:
        sys.exit("eval_report: plots need matplotlib: pip install -r tools/requirements.txt")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    if not any(lines.values()):
        return False
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, points in lines.items():
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        if points and len(points[0]) == 4:
            around = [[max(0.0, p[1] - p[2]) for p in points],
                      [max(0.0, p[3] - p[1]) for p in points]]
            axes.errorbar(xs, ys, yerr=around, marker="o", capsize=3, label=name)
        else:
            axes.plot(xs, ys, marker="o", label=name)
    if log_x:
        axes.set_xscale("log", base=2)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if y_label.endswith("%"):
        axes.set_ylim(-3, 103)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path,
                        help="JSON of lola eval: one run, or one run a line")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("."),
                        help="folder to write to, made when missing (default: this one)")
    parser.add_argument("--no-plots", action="store_true", help="the table alone")
    arguments = parser.parse_args()
    all_results = [results for path in arguments.files for results in read(path)]
    tell_apart(all_results)
    all_results.sort(key=lambda r: (r["identity"]["task"], variant(r), length(r)))
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = "# Evaluation\n\n" + table(all_results)
    for name, lines, x_label, y_label, log_x in (
            ("recall_by_length", recall_by_length(all_results), "length, tokens", "score, %", True),
            ("recall_by_depth", recall_by_depth(all_results), "depth, %", "found, %", False),
            ("recall_by_distance", recall_by_distance(all_results), "distance, tokens", "found, %",
             True),
            ("perplexity_by_position", perplexity_by_position(all_results), "position, tokens",
             "bits per token", True)):
        if arguments.no_plots:
            break
        if plot(arguments.out / f"{name}.png", lines, x_label, y_label, log_x):
            text += f"\n![{name.replace('_', ' ')}]({name}.png)\n"
    (arguments.out / "report.md").write_text(text, encoding="utf-8")
    print(arguments.out / "report.md")


if __name__ == "__main__":
    main()
