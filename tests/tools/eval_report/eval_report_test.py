"""Reports from result files: the table, what is plotted, refusals by name."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).resolve().parents[3] / "tools" / "eval_report.py"
SPEC = importlib.util.spec_from_file_location("eval_report", TOOL)
eval_report = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(eval_report)


def results(length, score, **changes):
    identity = {"task": "passkey", "length": str(length), "seed": "42", "bos": "true",
                "fingerprint": "0123456789abcdef", "settings.mode": "lola",
                "settings.profile": "lifelong", "settings.window": "64",
                "settings.cache_pairs": "128", "settings.cache_pairs_per_layer": "",
                "settings.score": "sre"}
    identity.update(changes)
    return {"format_version": 1, "tool": "lola eval 0.1.0", "state_bytes": 925696,
            "identity": identity, "samples": [{"index": 0, "tokens": 777}],
            "summary": {"samples": 100, "questions": 100, "score": score,
                        "wilson95": [score - 3, score + 3],
                        "by_depth": [{"asked": 10 * (i != 3), "right": i} for i in range(10)],
                        "by_distance": [{"from": 1024, "asked": 4, "right": 1}]}}


class Report(unittest.TestCase):
    def test_table_names_what_answered(self):
        text = eval_report.table([results(4096, 97.4), results(0, 50, **{
            "settings.cache_pairs": "0", "settings.profile": "paper"})])
        self.assertIn("| passkey | lifelong, eta 64, lambda 128 | 4,096 | 97.4 | 94.4 to 100.4 | "
                      "100 | 925,696 | 42 | true | `0123456789ab` | lola eval 0.1.0 |", text)
        self.assertIn("| base, paper, eta 64 | 777 |", text)

    def test_perplexity_is_bits_over_all_positions(self):
        file = results(4096, 0)
        file["summary"] = {"samples": 1, "questions": 0, "bits_by_position": [
            {"at": 1, "tokens": 10, "bytes": 20, "bits": 30.0},
            {"at": 2, "tokens": 30, "bytes": 20, "bits": 30.0}]}
        self.assertIn("1.5000 bits/token", eval_report.table([file]))
        self.assertEqual(list(eval_report.perplexity_by_position([file]).values()),
                         [[(1, 3.0), (2, 1.0)]])

    def test_lines_of_the_plots(self):
        lines = eval_report.recall_by_length([results(16384, 90), results(4096, 97)])
        self.assertEqual(lines, {"passkey: lifelong, eta 64, lambda 128":
                                 [(4096, 97, 94, 100), (16384, 90, 87, 93)]})
        depth = list(eval_report.recall_by_depth([results(4096, 97)]).values())[0]
        self.assertEqual(depth[2:4], [(25, 20.0), (45, 40.0)])  # nothing was asked at 30 to 40 %
        self.assertEqual(list(eval_report.recall_by_distance([results(1, 2)]).values()),
                         [[(1024, 25.0)]])

    def test_bits_per_token_have_an_interval(self):
        file = results(4096, 0)
        # 8 tokens of 1 bit and 8 of 3: mean 2, variance 16/15
        file["summary"] = {"samples": 1, "questions": 0, "bits_by_position": [
            {"at": 1, "tokens": 8, "bytes": 8, "bits": 8.0, "squares": 8.0},
            {"at": 8, "tokens": 8, "bytes": 8, "bits": 24.0, "squares": 72.0}]}
        self.assertIn("| 2.0000 bits/token | 1.4939 to 2.5061 |", eval_report.table([file]))

    def test_runs_that_differ_in_a_setting_are_two_lines(self):
        runs = [results(4096, 97, **{"settings.mixing": "natural", "settings.rescore": "true"}),
                results(8192, 97, **{"settings.mixing": "natural", "settings.rescore": "true"}),
                results(4096, 90, **{"settings.mixing": "lolcats", "settings.rescore": "true"})]
        eval_report.tell_apart(runs)
        self.assertEqual(sorted(eval_report.recall_by_length(runs)),
                         ["passkey: lifelong, eta 64, lambda 128, mixing lolcats",
                          "passkey: lifelong, eta 64, lambda 128, mixing natural"])

    def test_runs_of_other_models_or_texts_are_other_lines(self):
        runs = [results(4096, 97), results(8192, 96, samples="20"),
                results(4096, 12, fingerprint="fedcba9876543210"),
                results(4096, 50, needles="4", seed="7")]
        runs[2]["model"] = "models/other-1m"
        eval_report.tell_apart(runs)
        lines = eval_report.recall_by_length(runs)
        self.assertEqual([len(points) for points in lines.values()], [2, 1, 1])
        self.assertIn("fingerprint fedcba987654 (other-1m)", list(lines)[1])
        self.assertIn("needles 4", list(lines)[2])
        self.assertEqual(len(eval_report.recall_by_depth(runs)), 4)

    def test_reads_one_run_over_many_lines_and_one_run_a_line(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.json"
            runs = [results(4096, 97), results(8192, 90)]
            path.write_text(json.dumps(runs[0], indent=1))
            self.assertEqual(eval_report.read(path), runs[:1])
            path.write_text("".join(json.dumps(run) + "\n" for run in runs))
            self.assertEqual(eval_report.read(path), runs)
            path.write_text(json.dumps(runs[0]) + "\n{\n")
            with self.assertRaises(SystemExit) as refused:
                eval_report.read(path)
            self.assertIn("x.json", str(refused.exception))

    def test_the_table_needs_no_matplotlib(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.jsonl"
            path.write_text(json.dumps(results(4096, 97)) + "\n")
            ran = subprocess.run([sys.executable, TOOL, path, "--out", folder, "--no-plots"],
                                 capture_output=True, text=True)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertIn("97.0", (pathlib.Path(folder) / "report.md").read_text())

    def test_other_files_are_refused_by_name(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.json"
            for content in ("{", "{}", json.dumps({**results(1, 2), "format_version": 2})):
                path.write_text(content)
                ran = subprocess.run([sys.executable, TOOL, path], capture_output=True, text=True)
                self.assertEqual(ran.returncode, 1)
                self.assertIn("x.json", ran.stderr)

    def test_writes_report_and_plots_or_says_what_is_missing(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.json"
            path.write_text(json.dumps(results(4096, 97)))
            ran = subprocess.run([sys.executable, TOOL, path, "--out", folder],
                                 capture_output=True, text=True)
            if importlib.util.find_spec("matplotlib") is None:
                self.assertEqual(ran.returncode, 1)
                self.assertIn("tools/requirements.txt", ran.stderr)
                return
            self.assertEqual(ran.returncode, 0, ran.stderr)
            text = (pathlib.Path(folder) / "report.md").read_text()
            for name in ("recall_by_length", "recall_by_depth", "recall_by_distance"):
                self.assertIn(f"({name}.png)", text)
                self.assertGreater((pathlib.Path(folder) / f"{name}.png").stat().st_size, 5000)
            self.assertNotIn("perplexity", text)


if __name__ == "__main__":
    unittest.main()
