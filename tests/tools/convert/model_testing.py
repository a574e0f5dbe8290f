"""Small model directories and torch.save files for the converter's tests, made without torch."""
import collections
import io
import json
import pathlib
import pickle
import sys
import tempfile
import types
import unittest
import zipfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools"))

from convert import dtypes, tensor_files  # noqa: E402

DATA = ROOT / "tests/testdata/converted"
CONFIG = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 10,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}


def tensor(values, dtype="F32"):
    values = np.asarray(values, np.float32)
    return tensor_files.Tensor(dtype, values.shape, dtypes.narrow(values, dtype, "t"))


def write_file(path, tensors):
    """A safetensors file of {name: Tensor}."""
    outputs = [tensor_files.Output(name, t.dtype, t.shape, lambda t=t: iter([t.raw]))
               for name, t in tensors.items()]
    tensor_files.write_safetensors(path, outputs, lambda count: None)


def base_tensors(seed=1, dtype="BF16", config=CONFIG):
    from convert.base_model import read_shape
    random = np.random.default_rng(seed)
    return {name: tensor(random.standard_normal(shape), dtype)
            for name, shape in read_shape(config).tensors().items()}


def memory_tensors(seed=2, dtype="BF16", prefix="model.", width=16):
    random = np.random.default_rng(seed)
    tensors = {}
    for i in range(2):
        at = f"{prefix}layers.{i}.self_attn."
        for side in "qk":
            tensors[f"{at}feature_map_{side}.mlp.layer"] = tensor(
                random.standard_normal((4, 16, width)), dtype)
        tensors[at + "window_factors"] = tensor(random.standard_normal((1, 4, 1, 1)), dtype)
    return tensors


def lora_tensors(seed=3, dtype="BF16", leaves=("q", "k", "v", "o"), rank=2,
                 prefix="base_model.model.model.", middle=".default"):
    random = np.random.default_rng(seed)
    out, tensors = {"q": 64, "k": 32, "v": 32, "o": 8}, {}
    for i in range(2):
        for leaf in leaves:
            at = f"{prefix}layers.{i}.self_attn.{leaf}_proj.lora_"
            into = 64 if leaf == "o" else 8
            tensors[f"{at}A{middle}.weight"] = tensor(random.standard_normal((rank, into)), dtype)
            tensors[f"{at}B{middle}.weight"] = tensor(
                random.standard_normal((out[leaf], rank)), dtype)
    return tensors


def write_base(directory, tensors=None, config=CONFIG):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text('{"any": "thing"}')
    write_file(directory / "model.safetensors", tensors or base_tensors())


class _Fake:
    """Stands for a torch name in a pickle."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class _Pickler(pickle._Pickler):  # the Python one: its save_global can be told what to write
    def persistent_id(self, item):
        return item.pid if isinstance(item, types.SimpleNamespace) else None

    def reducer_override(self, item):
        return NotImplemented

    def save(self, item, save_persistent_id=True):
        if isinstance(item, _Fake):
            self.write(b"c" + f"{item.module}\n{item.name}\n".encode())
            return
        super().save(item, save_persistent_id)


class _Rebuilt:
    """Pickled as torch pickles a tensor: a call of _rebuild_tensor_v2."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce_ex__(self, protocol):
        return _call_rebuild, self.arguments


def _call_rebuild(*arguments):
    raise AssertionError("only pickled, never called")


def _save_rebuild(pickler, item):
    pickler.save(_Fake("torch._utils", "_rebuild_tensor_v2"))
    pickler.save(item.arguments)
    pickler.write(pickle.REDUCE)


_Pickler.dispatch = dict(pickle._Pickler.dispatch)
_Pickler.dispatch[_Rebuilt] = _save_rebuild
STORAGE = {"F32": "FloatStorage", "BF16": "BFloat16Storage", "F16": "HalfStorage"}


def torch_archive(program, storages=(), order=b"little", compression=zipfile.ZIP_STORED):
    """The bytes of a torch.save archive around a pickle."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/byteorder", order)
        for key, content in storages:
            file.writestr(f"archive/data/{key}", content)
    return data.getvalue()


def write_torch(path, tensors, wrap=False, storage_of=lambda t: t.raw):
    """{name: Tensor} as torch.save writes it; `storage_of` gives a view's whole storage."""
    content, storages = collections.OrderedDict(), []
    for key, (name, t) in enumerate(tensors.items()):
        storage = types.SimpleNamespace(pid=(
            "storage", _Fake("torch", STORAGE[t.dtype]), str(key), "cpu", t.raw.size))
        strides = tuple(s // t.raw.itemsize for s in t.raw.strides)
        content[name] = _Rebuilt(storage, 0, t.shape, strides, False, collections.OrderedDict())
        storages.append((key, storage_of(t).tobytes()))
    program = io.BytesIO()
    _Pickler(program, 2).dump({"model_state_dict": content, "step": 3} if wrap else content)
    path.write_bytes(torch_archive(program.getvalue(), storages))


class FolderTest(unittest.TestCase):
    """A fresh folder per test."""

    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.dir = pathlib.Path(holder.name)
