"""Tests of report.py on made-up results."""
from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import report  # noqa: E402
import report_aims  # noqa: E402
import report_tables  # noqa: E402
from report_data import Data  # noqa: E402

BIG, SMALL = "llama-3.1-8b", "llama-3.2-1b"


def figure(group: str, case: str, median: float, floor: float = 0, p99: float = 0) -> dict:
    return {"group": group, "case": case, "median_us": median, "spread": 0, "p99_us": p99,
            "floor_us": floor, "rate": ""}


def own(figures: list[dict], **changes) -> dict:
    return {"device": "NVIDIA H200", "backend": "cuda", "processors": 132,
            "copy_bytes_per_s": 4e12, "bf16_flops_per_s": 8e14, "figures": figures} | changes


def row(peer: str, what: str, median: float, batch: int, **changes) -> dict:
    layers = 1 if peer == "event" else 32
    return {"peer": peer, "what": what, "geometry": BIG, "layers": layers, "batch": batch,
            "median_us": median, "tokens_per_s": 1e6 * batch / median, "full": False, "context": 0,
            "p99_us": median, "spread": 0, "samples": 9, "floor_us": median / 2,
            "note": ""} | changes


def peers(rows: list[dict], **changes) -> dict:
    return {"device": "NVIDIA H200", "torch": "2.11", "copy_bytes_per_s": 4e12,
            "bf16_flops_per_s": 8e14, "settings": {}, "gates": [], "rows": rows,
            "missing": []} | changes


def step(batch: int, full: bool = False, layers: int = 32) -> str:
    return f"{BIG}, {layers} layers, bfloat16 weights, B {batch}{' (full)' if full else ''}"


PREFILL = f"{BIG}, 32 layers, bfloat16 weights, 2048 tokens a step"


class ReportTest(unittest.TestCase):
    def data(self, *contents: dict) -> Data:
        with tempfile.TemporaryDirectory() as folder:
            for i, content in enumerate(contents):
                (Path(folder) / f"{i}.json").write_text(json.dumps(content))
            return Data.read(Path(folder))

    def verdict(self, data: Data, what: str, where: str) -> tuple[str, float | None]:
        found = [a for a in report_aims.judge(data) if a.what == what and a.where == where]
        self.assertEqual(len(found), 1, f"{what}, {where}: {len(found)} aims")
        return found[0].verdict, found[0].found

    def test_shares_of_floors(self):
        layer = f"{BIG} layer, lambda 768, caches per group, B "
        data = self.data(own([
            figure("decode attention", layer + "32", 100, 86),
            figure("decode attention", layer + "8", 100, 69),
            figure("decode attention", layer.replace("768", "256") + "128", 100, 99),
            figure("chunk event", layer + "1", 300, 140),
            figure("mean step", step(1), 4000, 3600)]))
        what = "decode attention, of copy bandwidth"
        self.assertEqual(self.verdict(data, what, f"{BIG}, B 32"), ("met", 0.86))
        self.assertEqual(self.verdict(data, what, f"{BIG}, B 8"), ("missed", 0.69))
        self.assertEqual(self.verdict(data, what, f"{BIG}, B 128"), ("not measured", None))
        verdict, found = self.verdict(data, "chunk event, times its roofline", f"{BIG}, B 1")
        self.assertEqual(verdict, "missed")
        self.assertAlmostEqual(found, 300 / 140)
        self.assertEqual(self.verdict(data, "decode step, of its bytes", f"{BIG}, B 1")[0], "met")

    def test_floors_follow_the_best_ceiling(self):
        """A run that measured low ceilings must not look better for it."""
        data = self.data(own([figure("mean step", step(1), 4000, 3600),
                              figure("prefill", PREFILL, 1000, 560)]),
                         peers([], copy_bytes_per_s=5e12, bf16_flops_per_s=10e14))
        verdict, found = self.verdict(data, "decode step, of its bytes", f"{BIG}, B 1")
        self.assertEqual(verdict, "missed")
        self.assertAlmostEqual(found, 0.72)
        verdict, found = self.verdict(data, "prefill, of measured bf16 products",
                                      f"{BIG}, 1 stream")
        self.assertEqual(verdict, "missed")
        self.assertAlmostEqual(found, 0.448)

    def test_parts_of_steps(self):
        data = self.data(own([
            figure("prefill", PREFILL, 1000, 600), figure("prefill, dense part", PREFILL, 880, 600),
            figure("decode step", step(8), 100, 50, p99=129),
            figure("decode step", step(64), 100, 50, p99=131),
            figure("mean step, no snapshots", step(64), 100),
            figure("mean step, snapshots", step(64), 104)]))
        verdict, found = self.verdict(data, "LoLA's part of prefill", f"{BIG}, 1 stream")
        self.assertEqual(verdict, "missed")
        self.assertAlmostEqual(found, 0.12)
        what = "decode step, p99 over p50"
        self.assertEqual(self.verdict(data, what, f"{BIG}, B 8"), ("met", 1.29))
        self.assertEqual(self.verdict(data, what, f"{BIG}, B 64"), ("missed", 1.31))
        verdict, found = self.verdict(data, "a snapshot per 512 tokens and stream, of throughput",
                                      f"{BIG}, B 64")
        self.assertEqual(verdict, "missed")
        self.assertAlmostEqual(found, 1 - 100 / 104)

    def test_ratios_with_peers(self):
        layer = f"{BIG} layer, lambda 768, caches per group, B 8"
        data = self.data(
            own([figure("mean step", step(600, full=True), 30000, 20000),
                 figure("mean step", step(64), 8000, 6000), figure("chunk event", layer, 100, 50),
                 figure("prefill", PREFILL, 50000, 30000)]),
            peers([row("softmax", "decode", 25000, 7, full=True, context=131072),
                   row("lola", "decode", 72000, 64),
                   row("lola", "prefill", 600000, 1, tokens_per_s=2048 / 0.6),
                   row("event", "event, operation by operation", 2100, 8)]))
        verdict, found = self.verdict(data, "memory full at 128K, against SDPA", BIG)
        self.assertEqual(verdict, "met")
        self.assertAlmostEqual(found, (600 / 0.03) / (7 / 0.025))
        self.assertEqual(self.verdict(data, "decode, against LoLA in PyTorch", f"{BIG}, B 64"),
                         ("missed", 9.0))
        self.assertEqual(self.verdict(data, "prefill, against LoLA in PyTorch",
                                      f"{BIG}, 1 stream"), ("met", 12.0))
        self.assertEqual(self.verdict(
            data, "chunk event, faster than PyTorch operation by operation", f"{BIG}, B 8"),
            ("met", 21.0))
        self.assertEqual(self.verdict(data, "memory full at 128K, against SDPA", SMALL)[0],
                         "not measured")

    def test_trials_and_smoke_runs_are_no_measurements(self):
        data = self.data(
            own([figure("mean step", step(1, layers=2), 100, 99)]),
            peers([row("softmax", "decode", 10, 1, full=True, context=131072, layers=2)]))
        self.assertEqual((data.own, data.peers), ([], []))
        self.assertEqual(len(data.ignored), 2)
        smoke = self.data(own([figure("mean step", step(1), 100, 99)], device="emulation"))
        self.assertEqual((smoke.own, smoke.results), ([], 1))
        with self.assertRaisesRegex(SystemExit, "different machines"):
            self.data(own([]), peers([], device="NVIDIA H100"))

    def test_fit_finds_the_crossover_it_was_made_with(self):
        a, b, c, capacity = 4e-3, 1e-6, 4e-8, 900_000
        rows = [row("softmax", "decode", 1e6 * (a + b * batch + c * batch * context), batch,
                    full=full, context=context)
                for context in (1024, 4096, 32768, 131072)
                for batch, full in ((1, False), (capacity // context, True))]
        context = 2000
        batch = capacity / context
        rate = batch / (a + b * batch + c * capacity)
        self.assertAlmostEqual(report_tables.crossover(rows, rate) / context, 1, delta=0.02)
        self.assertIsNone(report_tables.crossover(rows[:2], rate))
        # 5.97 MB a layer and 4,096 bytes a token and layer; the design's rough figure is 1,476.
        self.assertAlmostEqual(report_tables.by_bytes(BIG) / 1476, 1, delta=0.02)

    def test_whole_report(self):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "steps.json").write_text(json.dumps(own([
                figure("mean step", step(1), 4000, 3600)])))
            (folder / "softmax.json").write_text(json.dumps(peers(
                [row("softmax", "decode", 5000, 1, context=4096)],
                missing=["softmax decode at 128K: out of time"],
                gates=[{"name": "g", "error": 0.1, "limit": 1}])))
            (folder / "broken.json").write_text("{")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                self.assertEqual(report.main([name, "--out", str(folder / "aims")]), 0)
            for wanted in ("1.25, no claim", "out of time", "broken.json", "not measured",
                           "1 of 1 correctness gates"):
                self.assertIn(wanted, out.getvalue())
            self.assertEqual((folder / "aims.md").read_text(), out.getvalue())
            # Its own output does not confuse the next report.
            with contextlib.redirect_stdout(io.StringIO()):
                self.assertEqual(report.main([name]), 0)
        with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(report.main([name]), 2)


if __name__ == "__main__":
    unittest.main()
