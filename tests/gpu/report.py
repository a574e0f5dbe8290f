#!/usr/bin/env python3
"""Joins what device_bench and the PyTorch peers measured into one table of aims.

    tests/gpu/report.py gpu-results --out gpu-results/aims

Reads every .json file of DIR (tests/gpu/run.sh puts them there), prints Markdown, and writes it to
FILE.md and the verdicts to FILE.json. An aim is met, missed or not measured; figures of fewer
layers than the shape has, of other machines or of smoke runs are not measurements. Needs Python
alone.
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from report_data import Data
import report_aims
import report_tables


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="with the .json files")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also FILE.md and FILE.json")
    args = parser.parse_args(argv)
    data = Data.read(args.folder)
    if data.results == 0:
        print(f"{args.folder}: no results of device_bench or of the peers", file=sys.stderr)
        return 2
    aims = report_aims.judge(data)
    text = "\n".join([*report_aims.markdown(data, aims), "", *report_tables.markdown(data)]) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.with_suffix(".md").write_text(text)
        args.out.with_suffix(".json").write_text(json.dumps([vars(aim) for aim in aims], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
