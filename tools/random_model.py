#!/usr/bin/env python3
"""Writes a Hugging Face Llama directory with random bfloat16 weights of a published shape.

    tools/random_model.py --shape llama-3.2-1b --files 3 /tmp/random-1b
    build/release/bin/lola model info --model /tmp/random-1b

For measuring and rehearsing without the weights themselves: the shapes are facts, the numbers are
noise. Needs numpy. --tokenizer takes any tokenizer.json the engine reads (default: single bytes).
"""

import argparse
import json
import math
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

try:
    import numpy as np
except ImportError:
    sys.exit("random_model: needs numpy: install the package python3-numpy and use "
             "/usr/bin/python3, or pip install numpy")
from convert.base_model import read_shape  # noqa: E402
from convert.dtypes import narrow  # noqa: E402
from convert.tensor_files import Output, write_safetensors  # noqa: E402

BYTES = pathlib.Path(__file__).resolve().parents[1] / "models/passkey-1m/tokenizer.json"
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
         "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "bos_token_id": 128000,
         "eos_token_id": 128001, "torch_dtype": "bfloat16", "vocab_size": 128256,
         "max_position_embeddings": 131072}
SCALING = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}
SHAPES = {
    "llama-3.2-1b": {**LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "head_dim": 64,
                     "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
                     "tie_word_embeddings": True, "rope_scaling": {**SCALING, "factor": 32.0}},
    "llama-3.1-8b": {**LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "head_dim": 128,
                     "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                     "tie_word_embeddings": False, "rope_scaling": {**SCALING, "factor": 8.0}},
    "tiny": {**LLAMA, "hidden_size": 64, "intermediate_size": 128, "head_dim": 32,
             "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
             "vocab_size": 272, "bos_token_id": 256, "eos_token_id": 257,
             "tie_word_embeddings": True, "rope_scaling": None},
}
NOISE = 1 << 20


def noise_tensor(name, shape, noise, random):
    """Norms are one; matrices are the noise from a place of their own, over and over."""
    count = math.prod(shape)
    begin = int(random.integers(NOISE))

    def blocks():
        if len(shape) == 1:
            yield narrow(np.ones(count, np.float32), "BF16", name)
            return
        for first in range(0, count, NOISE):
            yield np.roll(noise, -begin - first)[:count - first]
    return Output(name, "BF16", shape, blocks)


def write(out, config, files, seed):
    random = np.random.default_rng(seed)
    noise = narrow(random.standard_normal(NOISE, np.float32) * 0.02, "BF16", "noise")
    tensors = [noise_tensor(name, shape, noise, random)
               for name, shape in read_shape(config).tensors().items()]
    total = sum(tensor.nbytes for tensor in tensors)
    done, weight_map = 0, {}
    parts = [[] for _ in range(files)]
    for tensor in tensors:
        parts[min(files - 1, done * files // total)].append(tensor)
        done += tensor.nbytes
    parts = [part for part in parts if part]
    for i, part in enumerate(parts):
        name = ("model.safetensors" if files == 1 else
                f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors")
        write_safetensors(out / name, part, lambda _: None)
        weight_map |= {tensor.name: name for tensor in part}
    if files > 1:
        (out / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1))
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return total, len(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="new directory")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.2-1b",
                        help="default llama-3.2-1b")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has")
    parser.add_argument("--files", type=int, default=1, help="weight files (default: one)")
    parser.add_argument("--seed", type=int, default=1, help="of the weights (default 1)")
    parser.add_argument("--tokenizer", type=pathlib.Path, default=BYTES,
                        help="tokenizer.json to put there (default: single bytes)")
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"random_model: {arguments.out}: exists already; name a new directory")
    if arguments.files < 1 or (arguments.layers is not None and arguments.layers < 1):
        sys.exit("random_model: --files and --layers must be positive")
    config = dict(SHAPES[arguments.shape])
    if arguments.layers is not None:
        config["num_hidden_layers"] = arguments.layers
    arguments.out.mkdir(parents=True)
    total, files = write(arguments.out, config, arguments.files, arguments.seed)
    shutil.copyfile(arguments.tokenizer, arguments.out / "tokenizer.json")
    print(f"{arguments.out}: {total / 2**30:.2f} GiB of weights in {files} file(s)")


if __name__ == "__main__":
    main()
