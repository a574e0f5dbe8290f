#!/usr/bin/python3
"""Inputs that must be refused: by name, with nothing written and nothing left behind."""
import contextlib
import io
import json
import unittest
from unittest import mock

import numpy as np

from model_testing import (CONFIG, FolderTest, base_tensors, lora_tensors, memory_tensors, tensor,
                           write_base, write_file)
from convert import ConvertError, cli, merge, output, self_check, tensor_files


class RefusalsTest(FolderTest):
    def setUp(self):
        super().setUp()
        self.base, self.out = self.dir / "base", self.dir / "out"

    def error(self, base=None, config=CONFIG, distill=None, lora=None, *arguments):
        """What the converter says; it must fail, and leave only its inputs behind."""
        write_base(self.base, base or base_tensors(), config)
        write_file(self.dir / "d.safetensors", distill or memory_tensors())
        extra = []
        if lora is not None:
            write_file(self.dir / "l.safetensors", lora)
            extra = ["--lora", str(self.dir / "l.safetensors")]
        before = sorted(self.dir.iterdir())
        text = io.StringIO()
        with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main([str(self.base), str(self.out), "--quiet", "--distill",
                             str(self.dir / "d.safetensors"), *extra, *arguments])
        self.assertNotEqual(code, 0)
        self.assertEqual(sorted(self.dir.iterdir()), before)
        for path in self.base.iterdir():
            path.unlink()
        self.base.rmdir()
        return text.getvalue()

    def test_what_is_missing(self):
        distill = memory_tensors()
        del distill["model.layers.1.self_attn.feature_map_k.mlp.layer"]
        self.assertIn("feature_map_k.mlp.layer: missing in layer 1", self.error(distill=distill))
        lora = lora_tensors()
        for side in "AB":
            del lora[f"base_model.model.model.layers.0.self_attn.v_proj.lora_{side}.default.weight"]
        self.assertIn("LoRA of self_attn.v_proj: missing in layer 0", self.error(lora=lora))
        lora = lora_tensors()
        del lora["base_model.model.model.layers.0.self_attn.v_proj.lora_B.default.weight"]
        self.assertIn("layers.0.self_attn.v_proj.lora_B: missing", self.error(lora=lora))
        base = base_tensors()
        del base["model.layers.1.mlp.up_proj.weight"]
        self.assertIn("model.layers.1.mlp.up_proj.weight: missing", self.error(base=base))
        self.assertIn("holds no LoRA", self.error(lora=memory_tensors(prefix="")))

    def test_what_is_unknown(self):
        distill = memory_tensors() | {
            "model.layers.0.self_attn.feature_map_q.mlp.bias": tensor([1])}
        self.assertIn("feature_map_q.mlp.bias", self.error(distill=distill))
        distill = memory_tensors() | {"lm_head.lora_A.weight": tensor([[1]])}
        self.assertIn("unknown tensors: lm_head.lora_A.weight", self.error(distill=distill))
        base = base_tensors() | {"model.layers.0.self_attn.q_proj.bias": tensor([1.0])}
        self.assertIn("q_proj.bias: unknown", self.error(base=base))
        distill = memory_tensors() | {
            "model.layers.2.self_attn.window_factors": tensor(np.zeros((1, 4, 1, 1)))}
        self.assertIn("layer 2: the base model has 2 layers", self.error(distill=distill))
        twice = memory_tensors() | {
            "layers.0.self_attn.window_factor": tensor(np.zeros((1, 4, 1, 1)))}
        self.assertIn("under another name too", self.error(distill=twice))

    def test_shapes(self):
        distill = memory_tensors()
        distill["model.layers.1.self_attn.feature_map_k.mlp.layer"] = tensor(np.ones((4, 16, 5)))
        self.assertIn("shape [4, 16, 5], expected [4, 16, 16]", self.error(distill=distill))
        distill = memory_tensors()
        distill["model.layers.1.self_attn.window_factors"] = tensor(np.ones(2))
        self.assertIn("shape [2], expected [1, 4, 1, 1]", self.error(distill=distill))
        lora = lora_tensors()
        lora["base_model.model.model.layers.0.self_attn.k_proj.lora_B.default.weight"] = tensor(
            np.ones((32, 3)))
        self.assertIn("lora_B [32, 3], expected [r, 8] and [32, r]", self.error(lora=lora))
        base = base_tensors()
        base["model.norm.weight"] = tensor(np.ones(9))
        self.assertIn("model.norm.weight: shape [9], expected [8]", self.error(base=base))

    def test_values_that_are_not_numbers(self):
        for bad in (np.nan, np.inf):
            values = np.ones((4, 16, 16), np.float32)
            values[1, 2, 0] = bad
            distill = memory_tensors()
            name = "model.layers.0.self_attn.feature_map_q.mlp.layer"
            distill[name] = tensor_files.Tensor("F32", values.shape, values)
            self.assertIn("feature_map_q.mlp.layer: element [1, 2, 0] is " + str(bad),
                          self.error(distill=distill))
        base = base_tensors(dtype="F32")
        base["model.layers.0.mlp.down_proj.weight"].raw[3, 1] = np.nan
        self.assertIn("down_proj.weight: element [3, 1] is nan", self.error(base=base))
        lora = lora_tensors(dtype="F32")
        lora["base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"].raw[0, 0] = (
            -np.inf)
        self.assertIn("lora_A: element [0, 0] is -inf", self.error(lora=lora))

    def test_values_too_large_for_the_target(self):
        base = base_tensors(dtype="F32")
        base["model.norm.weight"].raw[0] = 1e6
        self.assertIn("1e+06 is too large for float16",
                      self.error(base, CONFIG, None, None, "--dtype", "float16"))

    def test_configurations_the_engine_refuses(self):
        for key, value in {"model_type": "qwen3", "hidden_act": "gelu", "attention_bias": True,
                           "quantization_config": {"bits": 4}, "hidden_size": "wide",
                           "num_key_value_heads": 3}.items():
            self.assertIn(key, self.error(config=CONFIG | {key: value}), key)
        self.assertIn("yarn", self.error(config=CONFIG | {"rope_scaling": {"rope_type": "yarn"}}))
        self.assertIn("lola: there already", self.error(config=CONFIG | {"lola": {}}))
        for key, value in {"partial_rotary_factor": 0.5, "sliding_window": 4096,
                           "head_dim": 24}.items():
            self.assertIn(f"{key}: {value}", self.error(config=CONFIG | {key: value}), key)
        for width in (8, 272):
            self.assertIn(f"feature maps of width {width}",
                          self.error(distill=memory_tensors(width=width)))

    def test_settings(self):
        self.assertIn("--chunk: 3", self.error(None, CONFIG, None, None, "--window", "8",
                                               "--chunk", "3"))
        self.assertIn("--score-epsilon", self.error(None, CONFIG, None, None, "--score-epsilon",
                                                    "0"))

    def test_a_target_that_exists_stays_as_it_is(self):
        self.out.mkdir()
        self.assertIn("exists already", self.error())
        self.assertEqual(list(self.out.iterdir()), [])

    def test_a_full_disk_is_noticed_before_writing(self):
        with mock.patch.object(output.shutil, "disk_usage", return_value=mock.Mock(free=10)):
            self.assertIn("10 B free", self.error())

    def test_a_failure_in_the_middle_leaves_nothing(self):
        with mock.patch.object(merge.Source, "rows", side_effect=OSError(28, "No space left")):
            self.assertIn("No space left", self.error())
        with mock.patch.object(merge.Source, "rows", side_effect=KeyboardInterrupt):
            self.assertIn("nothing was written", self.error())

    def test_the_self_check_catches_a_wrong_merge(self):
        right = merge.Source.rows

        def wrong(source, first, last):
            rows = right(source, first, last).copy()
            if source.name.endswith("1.self_attn.k_proj.weight"):
                rows[0, 0] ^= 4  # two bits above the last place of a bfloat16
            return rows
        with mock.patch.object(merge.Source, "rows", wrong):
            self.assertIn("self-check: tensor model.layers.1.self_attn.k_proj.weight, row 0",
                          self.error(lora=lora_tensors()))

    def test_the_self_check_catches_a_wrong_copy(self):
        write_base(self.base)
        tensors = tensor_files.read_directory(self.base)
        sources = [merge.Source(n, t, t.dtype) for n, t in tensors.items()]
        self.assertGreater(self_check.check_directory(self.base, sources, 4, 1), 20)
        other = tensors["model.norm.weight"].values().copy()
        other[7] += 1
        sources[-2 if sources[-1].name == "lm_head.weight" else -1] = merge.Source(
            "model.norm.weight", tensor(other, "BF16"), "BF16")
        with self.assertRaisesRegex(ConvertError, "model.norm.weight, row 7"):
            self_check.check_directory(self.base, sources, 4, 1)

    def test_an_index_that_leaves_the_folder(self):
        self.base.mkdir()
        (self.base / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
        with self.assertRaisesRegex(ConvertError, "../secret"):
            tensor_files.read_directory(self.base)


if __name__ == "__main__":
    unittest.main()
