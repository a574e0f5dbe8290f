#!/usr/bin/python3
"""Conversions that work: bits, layouts, names, configuration, and the command line around them."""
import contextlib
import io
import json
import shutil
import subprocess
import sys
import unittest

import numpy as np

from model_testing import (CONFIG, DATA, ROOT, FolderTest, base_tensors, lora_tensors,
                           memory_tensors, tensor, write_base, write_file, write_torch)
from convert import cli, dtypes, tensor_files


class ConvertTest(FolderTest):
    def setUp(self):
        super().setUp()
        self.base, self.out = self.dir / "base", self.dir / "out"

    def run_convert(self, *arguments):
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            code = cli.main([str(self.base), str(self.out), "--quiet", *map(str, arguments)])
        return code, text.getvalue()

    def converted(self, *arguments):
        code, text = self.run_convert(*arguments)
        self.assertEqual(code, 0, text)
        return tensor_files.read_directory(self.out)

    def test_files_written_by_torch_and_transformers_give_the_committed_model(self):
        # The inputs are what torch.save and save_pretrained wrote; the engine's parity test
        # checks the same output against the PyTorch reference.
        self.base = DATA / "base"
        self.converted("--distill", DATA / "adapters/distill.pt", "--lora",
                       DATA / "adapters/lora.pt", "--window", 16, "--cache-pairs", 24,
                       "--cache-dtype", "float32")
        names = sorted(path.name for path in (DATA / "model").iterdir())
        self.assertEqual(sorted(path.name for path in self.out.iterdir()), names)
        for name in names:
            self.assertEqual((self.out / name).read_bytes(), (DATA / "model" / name).read_bytes(),
                             name)

    def test_lora_is_merged_and_rounded_to_nearest_even(self):
        base, lora = base_tensors(), lora_tensors()
        write_base(self.base, base)
        write_torch(self.dir / "d.pt", memory_tensors())
        write_torch(self.dir / "l.pt", lora, wrap=True)
        found = self.converted("--distill", self.dir / "d.pt", "--lora", self.dir / "l.pt")
        name = "layers.1.self_attn.o_proj"
        a = lora[f"base_model.model.model.{name}.lora_A.default.weight"].values().astype(float)
        b = lora[f"base_model.model.model.{name}.lora_B.default.weight"].values().astype(float)
        exact = base[f"model.{name}.weight"].values() + 16 / 2 * b @ a
        got = found[f"model.{name}.weight"]
        self.assertEqual(got.dtype, "BF16")
        # Half of the last of 8 bits, and the float32 sum's rounding.
        self.assertTrue((abs(got.values() - exact) <= 2.0 ** -8 * abs(exact) + 1e-5).all())
        plain = "model.layers.1.mlp.up_proj.weight"
        np.testing.assert_array_equal(found[plain].raw, base[plain].raw)

    def test_rounding_is_to_nearest_even(self):
        bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF808000], np.uint32)
        self.assertEqual(dtypes.narrow(bits.view(np.float32), "BF16", "t").tolist(),
                         [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0xBF80])

    def test_names_in_every_spelling_give_the_same_tensors(self):
        write_base(self.base)
        write_file(self.dir / "plain.safetensors", memory_tensors())
        reference = self.converted("--distill", self.dir / "plain.safetensors")
        for prefix in ("", "model.model.", "base_model.model.model."):
            shutil.rmtree(self.out)
            renamed = {name.replace("window_factors", "window_factor"): t
                       for name, t in memory_tensors(prefix=prefix).items()}
            write_torch(self.dir / "other.pt", renamed)
            found = self.converted("--distill", self.dir / "other.pt")
            self.assertEqual(sorted(found), sorted(reference))
            for name in found:
                np.testing.assert_array_equal(found[name].raw, reference[name].raw, name)

    def test_a_later_file_replaces_feature_maps(self):
        write_base(self.base)
        write_torch(self.dir / "d.pt", memory_tensors())
        newer = memory_tensors(seed=9, prefix="base_model.model.model.")
        write_torch(self.dir / "l.pt", newer | lora_tensors())
        found = self.converted("--distill", self.dir / "d.pt", "--lora", self.dir / "l.pt")
        name = "layers.0.self_attn.feature_map_q.mlp.layer"
        np.testing.assert_array_equal(found["model." + name].raw,
                                      newer["base_model.model.model." + name].raw)

    def test_a_peft_directory_brings_its_alpha(self):
        base, lora = base_tensors(dtype="F32"), lora_tensors(middle="", dtype="F32")
        write_base(self.base, base)
        write_torch(self.dir / "d.pt", memory_tensors())
        (self.dir / "peft").mkdir()
        write_file(self.dir / "peft/adapter_model.safetensors", lora)
        (self.dir / "peft/adapter_config.json").write_text('{"lora_alpha": 6, "bias": "none"}')
        found = self.converted("--distill", self.dir / "d.pt", "--lora", self.dir / "peft")
        name = "layers.0.self_attn.q_proj"
        product = (lora[f"base_model.model.model.{name}.lora_B.weight"].values()
                   @ lora[f"base_model.model.model.{name}.lora_A.weight"].values())
        np.testing.assert_allclose(found[f"model.{name}.weight"].values(),
                                   base[f"model.{name}.weight"].values() + 3 * product, rtol=1e-5,
                                   atol=1e-6)

    def test_lora_files_of_different_scales_are_not_merged_by_one(self):
        write_base(self.base, base_tensors(dtype="F32"))
        write_torch(self.dir / "d.pt", memory_tensors())
        lora = lora_tensors(middle="", dtype="F32")
        for folder, leaf, alpha in (("one", "q_proj", 6), ("two", "k_proj", 8)):
            (self.dir / folder).mkdir()
            write_file(self.dir / folder / "adapter_model.safetensors",
                       {n: t for n, t in lora.items() if leaf in n})
            (self.dir / folder / "adapter_config.json").write_text(f'{{"lora_alpha": {alpha}}}')
        both = ("--distill", self.dir / "d.pt", "--lora", self.dir / "one", "--lora",
                self.dir / "two")
        code, text = self.run_convert(*both)
        self.assertEqual(code, 1)
        self.assertIn("LoRA files of different scales", text)
        self.assertIn("two/adapter_model.safetensors: alpha 8", text)
        self.converted(*both, "--lora-alpha", 6)

    def test_shards_and_another_type(self):
        write_base(self.base, base_tensors(dtype="F16"))
        write_torch(self.dir / "d.pt", memory_tensors())
        found = self.converted("--distill", self.dir / "d.pt", "--dtype", "float32",
                               "--shard-size", 1000 / 2 ** 30)
        index = json.loads((self.out / "model.safetensors.index.json").read_text())
        self.assertEqual(set(index["weight_map"]), set(found))
        self.assertGreater(len(set(index["weight_map"].values())), 2)
        self.assertEqual(found["model.norm.weight"].dtype, "F32")
        np.testing.assert_array_equal(found["model.norm.weight"].values(),
                                      base_tensors(dtype="F16")["model.norm.weight"].values())
        self.assertEqual(json.loads((self.out / "config.json").read_text())["torch_dtype"],
                         "float32")

    def test_the_configuration_keeps_the_base_and_tells_the_origin(self):
        write_base(self.base)
        (self.base / "special_tokens_map.json").write_text("{}")
        write_torch(self.dir / "d.pt", memory_tensors())
        self.converted("--distill", self.dir / "d.pt", "--window", 64, "--chunk", 32,
                       "--mixing", "natural")
        config = json.loads((self.out / "config.json").read_text())
        lola = config.pop("lola")
        self.assertEqual(config, CONFIG)
        self.assertEqual(lola["feature_map"]["feature_dim"], 16)
        self.assertEqual((lola["defaults"]["window"], lola["defaults"]["chunk"]), (64, 32))
        self.assertEqual(lola["defaults"]["mixing"], "natural")
        digest = subprocess.run(["sha256sum", self.base / "model.safetensors"], text=True,
                                capture_output=True, check=True).stdout.split()[0]
        self.assertEqual(lola["provenance"]["base"]["model.safetensors"], digest)
        self.assertTrue((self.out / "tokenizer.json").exists())
        self.assertTrue((self.out / "special_tokens_map.json").exists())
        self.assertNotIn(str(self.dir), json.dumps(lola))

    def test_a_dry_run_writes_nothing(self):
        write_base(self.base)
        write_torch(self.dir / "d.pt", memory_tensors())
        code, text = self.run_convert("--distill", self.dir / "d.pt", "--dry-run")
        self.assertEqual(code, 0, text)
        self.assertIn("nothing was written", text)
        self.assertIn("width 16, F 32", text)
        self.assertFalse(self.out.exists())

    def test_a_mistral_base_and_tied_embeddings(self):
        config = CONFIG | {"model_type": "mistral", "sliding_window": 4096,
                           "tie_word_embeddings": True}
        tensors = base_tensors(config=config)
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = tensor([1.0, 2.0])
        write_base(self.base, tensors, config)
        write_torch(self.dir / "d.pt", memory_tensors())
        found = self.converted("--distill", self.dir / "d.pt")
        self.assertNotIn("lm_head.weight", found)
        self.assertNotIn("model.layers.0.self_attn.rotary_emb.inv_freq", found)

    def test_it_starts_as_a_program(self):
        done = subprocess.run([sys.executable, ROOT / "tools/convert", "--help"], text=True,
                              capture_output=True, check=True)
        self.assertIn("--dry-run", done.stdout)


if __name__ == "__main__":
    unittest.main()
