"""Tests of the PyTorch peers on the CPU: the smoke run, and gates that fail when they should.

Exit code 77 without PyTorch.
"""
from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
import tempfile
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

try:
    import torch
except ModuleNotFoundError:
    print("SKIPPED: no PyTorch here (tools/README.md says how to make build/venv)")
    sys.exit(77)

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

PEERS = Path(__file__).resolve().parent / "peers"
sys.path.insert(0, str(PEERS))
import dense  # noqa: E402
import geometry  # noqa: E402
import harness  # noqa: E402
import lola_gate  # noqa: E402
import lola_parts  # noqa: E402
import lola_peer  # noqa: E402
import softmax_peer  # noqa: E402

torch.set_num_threads(1)


def run(function, *args):
    """(what it returned, what it printed)."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), torch.inference_mode():
        return function(*args), out.getvalue()


def fake_weights(machine: harness.Machine, g: geometry.Geometry) -> dense.Weights:
    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(shape, device=machine.device, dtype=machine.dtype)

    q, kv, maps = g.heads * g.head_dim, g.kv_heads * g.head_dim, g.features // 2
    layer = dense.Layer(empty(g.hidden), empty(q + 2 * kv, g.hidden), empty(g.hidden, q),
                        empty(g.hidden), empty(2 * g.ffn, g.hidden), empty(g.hidden, g.ffn),
                        *(empty(g.heads, g.head_dim, maps) for _ in "qk"), empty(g.heads))
    table = empty(g.vocab, g.hidden)
    return dense.Weights(table, table, empty(g.hidden), [layer] * g.layers)


class PeersTest(unittest.TestCase):
    def setUp(self):
        self.machine = harness.Machine("cpu", compiled=False, budget_s=1e9)
        self.results = harness.Results("CPU", torch.__version__, copy_bytes_per_s=1e9,
                                       bf16_flops_per_s=1e9)

    def test_smoke_run_measures_every_peer(self):
        spec = importlib.util.spec_from_file_location("peers_main", PEERS / "__main__.py")
        main = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(main)
        with tempfile.TemporaryDirectory() as folder:
            code, printed = run(main.main, ["--smoke", "--out", f"{folder}/peers"])
            self.assertEqual(code, 0, printed)
            found = json.loads(Path(folder, "peers.json").read_text())
            table = Path(folder, "peers.md").read_text()
        cases = {(r["peer"], r["what"], r["full"]) for r in found["rows"]}
        for wanted in (("softmax", "decode", False), ("softmax", "decode", True),
                       ("lola", "decode", False), ("lola", "decode", True),
                       ("lola", "prefill", False), ("event", "event, compiled, recorded", False)):
            self.assertIn(wanted, cases)
        self.assertEqual(found["missing"], [])
        self.assertTrue(all(g["error"] <= g["limit"] for g in found["gates"]))
        self.assertEqual(table.count("\n| "), len(found["rows"]) + 1)

    def test_lola_gate_sees_every_setting(self):
        """A peer that ignores a setting is caught; the judge keeps the right ones."""
        for change in ({"mass_cap": 1e9}, {"redundancy": 1e-6}, {"distance": 17},
                       {"pairs": 23}, {"score_epsilon": 1.0}):
            class Wrong(lola_peer.LolaPeer):
                def __init__(self, machine, g, m, weights, dense):
                    super().__init__(machine, g, replace(m, **change), weights, dense)

            with self.subTest(change), mock.patch.object(lola_gate, "LolaPeer", Wrong):
                with self.assertRaisesRegex(SystemExit, "FAILED gate LoLA"):
                    run(lola_gate.gate, self.machine, self.results)

    def test_lola_gate_sees_a_wrong_step(self):
        phi = lola_parts.features
        for where, name, wrong in (
                (lola_parts, "features", lambda x, maps: phi(x, maps).flip(-1) * 1.01),
                (lola_parts, "near_counts", lambda v, live, t: torch.ones(v.shape[:-1])),
                (lola_peer.LolaPeer, "next_chunk", lambda self: None)):
            with self.subTest(name), mock.patch.object(where, name, wrong):
                with self.assertRaisesRegex(SystemExit, "FAILED gate LoLA"):
                    run(lola_gate.gate, self.machine, self.results)

    def test_softmax_gate_drops_forms_that_are_wrong(self):
        right = softmax_peer.rows_form
        forms = {"right": right, "wrong": lambda q, k, v: right(q, k, v[:, :, :1].expand_as(v)),
                 "late": lambda q, k, v: right(q, k[:, :, :-1], v[:, :, :-1])}
        with mock.patch.object(softmax_peer, "variants", lambda machine: forms):
            passed, _ = run(softmax_peer.gate, self.machine, self.results)
        self.assertEqual(list(passed), ["right"])
        with mock.patch.object(softmax_peer, "variants", lambda m: {"wrong": forms["wrong"]}):
            with self.assertRaisesRegex(SystemExit, "no form of attention"):
                run(softmax_peer.gate, self.machine, self.results)

    def test_whole_steps_at_full_size_on_fake_tensors(self):
        """Shapes, types and devices of what only a GPU runs; FlashAttention's operator too."""
        if torch.version.cuda is None:
            self.skipTest("this PyTorch was built without CUDA")
        gpu = harness.Machine("cuda", compiled=False, budget_s=1e9)
        for g in (replace(geometry.GEOMETRIES[name], layers=1)
                  for name in ("llama-3.1-8b", "llama-3.2-1b")):
            with FakeTensorMode(), torch.inference_mode():
                weights = fake_weights(gpu, g)
                layers = dense.Dense(gpu, g)
                softmax = softmax_peer.SoftmaxPeer(gpu, g, weights, layers)
                for form in (softmax_peer.rows_form, softmax_peer.gqa_form):
                    softmax.start(7, 131072)
                    softmax.decode(form)
                    self.assertEqual(str(softmax.tokens.device), "cuda:0")
                lola = lola_peer.LolaPeer(gpu, g, geometry.Memory(), weights, layers)
                for cache in (lola_parts.plain_cache, lola_parts.flash_cache):
                    lola.use_cache(cache)
                    lola.start(40)  # not a multiple of what events take at once
                    lola.fill()
                    lola.decode()
                    lola.events()
                    lola.start(1)
                    tokens = torch.zeros(1, 2048, dtype=torch.int64, device="cuda")
                    found = lola.prefill(tokens)
                    self.assertEqual(found.shape, (1, 2048, g.hidden))
                    self.assertEqual(found.dtype, torch.bfloat16)

    def test_states_take_the_bytes_that_are_counted(self):
        g, m = geometry.GEOMETRIES["tiny"], geometry.TINY_MEMORY
        state = lola_peer.empty_state(self.machine, g, m, 3)
        counters = state.absorbed.nbytes
        found = sum(tensor.nbytes for tensor in vars(state).values()) - counters
        self.assertEqual(found * g.layers, 3 * m.state_bytes(g, self.machine.element))

    def test_nan_never_passes(self):
        self.assertFalse(run(self.results.judged, "nan", float("nan"), 1.0)[0])

    def test_full_memory_is_tried_with_less_when_it_overflows(self):
        tried = []

        def case(batch: int) -> None:
            tried.append(batch)
            if batch > 230:
                raise torch.OutOfMemoryError("CUDA out of memory\nmore lines")

        run(harness.attempt, self.machine, self.results, "case", 0, case, 256, 16)
        self.assertEqual(tried, [256, 240, 224])
        self.assertEqual(self.results.missing, [])
        tried.clear()
        run(harness.attempt, self.machine, self.results, "case", 0, case, 512, 512)
        self.assertEqual(tried, [512])
        self.assertEqual(self.results.missing, ["case: B 512: CUDA out of memory"])

    def test_a_case_without_time_is_named(self):
        late = self.machine.variant(cuda=True, end=0.0)
        run(harness.attempt, late, self.results, "case", 10, self.fail)
        self.assertEqual(self.results.missing, ["case: out of time"])


if __name__ == "__main__":
    unittest.main()
