"""PyTorch peers of the CUDA backend, measured on the same machine. See --help."""
from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

HELP = """\
What a user would run instead, on this machine's GPU, with random weights of the same shapes:

  softmax  PyTorch SDPA with a static cache, fused projections, torch.compile and one recorded
           graph a step, at every context: batch 1, and as many streams as the memory holds
  lola     LoLA itself in good PyTorch (same maths as tools/reference_model, which judges it
           first): decode at batches 1, 8, 64 and full, prefill of 2,048 tokens a step
  event    one layer's chunk event, operation by operation, and compiled and recorded

Nothing is timed before its correctness gates have passed. Copy bandwidth and bf16 products are
measured in the same run; floors come from them. Weights and activations are bfloat16, H and s
float32 with TF32 products: where PyTorch may be faster by being less exact, it is allowed to.

examples:
  python3 tests/gpu/peers softmax --geometry llama-3.1-8b --out results/softmax-8b
  python3 tests/gpu/peers lola --geometry llama-3.2-1b --layers 2   a trial: 2 of 16 layers
  python3 tests/gpu/peers --smoke                                   gates on the CPU, tiny shape

Results are written after every case (--out FILE: FILE.json and FILE.md). A case that the budget
does not allow is named as not measured. Exit code 77: no PyTorch, or no GPU and not --smoke.
"""


def numbers(text: str) -> list[int]:
    """Batches and contexts: 1,8,64,full; full is 0."""
    values = [0 if part == "full" else int(part) for part in text.split(",")]
    if min(values) < 0:
        raise ValueError(text)
    return values


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/gpu/peers", description=HELP,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", nargs="?", choices=("softmax", "lola", "event"),
                        help="absent: all three")
    parser.add_argument("--geometry", default="llama-3.1-8b",
                        choices=("llama-3.1-8b", "llama-3.2-1b"), help="default llama-3.1-8b")
    parser.add_argument("--layers", type=int, default=0,
                        help="fewer layers, for trials: no claim comes from them")
    parser.add_argument("--contexts", type=numbers, default=[131072, 32768, 4096, 1024],
                        help="in this order; default 131072,32768,4096,1024")
    parser.add_argument("--batches", type=numbers, default=[1, 8, 64, 0],
                        help="of LoLA's decode, default 1,8,64,full")
    parser.add_argument("--event-batches", type=numbers, default=[1, 8, 32, 128],
                        help="events at once, default 1,8,32,128")
    parser.add_argument("--most", type=int, default=4096,
                        help="streams of a full batch at most (default 4096)")
    parser.add_argument("--budget", type=float, default=480, metavar="SECONDS",
                        help="no case begins that would end later (default 480)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="results: FILE.json and FILE.md")
    parser.add_argument("--smoke", action="store_true", help="on the CPU, tiny, times mean nothing")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None,
                        help="torch.compile (default: yes on a GPU, no in smoke runs)")
    parser.add_argument("--tune", action="store_true",
                        help="torch.compile tries kernels for every product: minutes more")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    args = parse(argv)
    try:
        import torch
    except ModuleNotFoundError:
        print("SKIPPED: no PyTorch here (python3 -m venv build/venv && build/venv/bin/pip install "
              "-r tools/requirements.txt)")
        return 77
    import lola_run
    import softmax_peer
    from geometry import GEOMETRIES
    from harness import Machine, Results, measure_ceilings

    if not args.smoke and not torch.cuda.is_available():
        print("SKIPPED: no GPU that PyTorch can use (--smoke runs on the CPU)")
        return 77
    if args.smoke:
        args.geometry, args.contexts, args.batches = "tiny", [48, 96], [1, 3, 0]
        args.event_batches, args.most = [1, 3], 5
    g = GEOMETRIES[args.geometry]
    if args.layers:
        g = replace(g, layers=args.layers)
    compiled = args.compile if args.compile is not None else not args.smoke
    machine = Machine("cpu" if args.smoke else "cuda", compiled, args.budget, args.tune)
    if args.smoke:
        torch.set_num_threads(1)  # tiny products: threads only wait for each other
    torch.manual_seed(11)
    torch.set_float32_matmul_precision("high")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    results = Results(machine.name, torch.__version__, args.out,
                      {"layers of the shape": GEOMETRIES[args.geometry].layers,
                       "compiled": compiled, "full batch reserve bytes":
                       {"softmax": softmax_peer.RESERVE, "lola": lola_run.RESERVE}})
    with torch.inference_mode():
        measure_ceilings(machine, results)
        if args.peer in (None, "softmax"):
            softmax_peer.run(machine, results, g, args.contexts, args.most)
        if args.peer in (None, "lola"):
            lola_run.run(machine, results, g, args.batches, args.most)
        if args.peer in (None, "event"):
            lola_run.run_events(machine, results, g, args.event_batches)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
