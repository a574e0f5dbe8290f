#!/usr/bin/python3
"""torch.save files: what is read, and that nothing in them is ever run."""
import os
import pickle
import unittest
import zipfile

import numpy as np

from model_testing import (DATA, FolderTest, memory_tensors, tensor, torch_archive, write_torch)
from convert import ConvertError, tensor_files
from convert.torch_file import read_torch


class Bomb:
    """Writes a file when it is unpickled by pickle.load."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class TorchFileTest(FolderTest):
    def setUp(self):
        super().setUp()
        self.path = self.dir / "m.pt"

    def error(self, program, storages=(), **options):
        self.path.write_bytes(torch_archive(program, storages, **options))
        with self.assertRaises(ConvertError) as caught:
            read_torch(self.path)
        self.assertIn(str(self.path), str(caught.exception))
        return str(caught.exception)

    def test_reads_what_torch_wrote(self):
        tensors = read_torch(DATA / "adapters/distill.pt")
        name = "model.layers.1.self_attn.feature_map_k.mlp.layer"
        self.assertEqual((tensors[name].dtype, tensors[name].shape), ("BF16", (4, 64, 64)))
        written = tensor_files.read_directory(DATA / "model")[name]
        np.testing.assert_array_equal(tensors[name].raw, written.raw)
        self.assertEqual(len(read_torch(DATA / "adapters/lora.pt")), 16)

    def test_reads_bare_and_wrapped(self):
        for wrap in (False, True):
            write_torch(self.path, memory_tensors(), wrap)
            found = read_torch(self.path)
            for name, expected in memory_tensors().items():
                np.testing.assert_array_equal(found[name].raw, expected.raw)

    def test_reads_strided_views(self):
        flat = np.arange(6, dtype=np.float32)
        transposed = np.lib.stride_tricks.as_strided(flat, (3, 2), (4, 12))
        stored = tensor_files.Tensor("F32", (3, 2), transposed)
        write_torch(self.path, {"t": stored}, storage_of=lambda t: flat)
        np.testing.assert_array_equal(read_torch(self.path)["t"].raw, [[0, 3], [1, 4], [2, 5]])

    def test_never_runs_what_a_file_says(self):
        mark = self.dir / "mark"
        for protocol in range(6):
            program = pickle.dumps({"t": Bomb(str(mark))}, protocol)
            message = self.error(program)
            self.assertRegex(message, "mkdir|only tensors are read")
            self.assertFalse(mark.exists())
        pickle.loads(program)  # the same bytes do it elsewhere, so the test means something
        self.assertTrue(mark.exists())

    def test_refuses_every_other_name(self):
        for module, name in (("os", "system"), ("builtins", "eval"), ("torch", "load"),
                             ("torch._utils", "_rebuild_parameter_with_state"),
                             ("collections", "OrderedDict.fromkeys"), ("numpy", "load")):
            program = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b")R."
            self.assertIn(f"{module}.{name}", self.error(program))

    def test_refuses_instructions_without_use(self):
        self.assertIn("INST", self.error(b"(ios\nsystem\n."))
        self.assertIn("EXT1", self.error(b"\x80\x02\x82\x01."))
        self.assertIn("NEWOBJ", self.error(b"\x80\x02ccollections\nOrderedDict\n)\x81."))
        # A memo slot far beyond the file would allocate gigabytes.
        self.assertIn("memo slot", self.error(b"\x80\x02}r\xff\xff\xff\x7f."))

    def test_refuses_tensors_that_leave_their_storage(self):
        def program(offset, shape, stride, count=4, kind="FloatStorage", key="0"):
            head = b"\x80\x02}X\x01\x00\x00\x00tctorch._utils\n_rebuild_tensor_v2\n("
            pid = b"(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\nX\x01\x00\x00\x00"
            pid += key.encode() + b"X\x03\x00\x00\x00cpuK" + bytes([count]) + b"tQ"

            def numbers(values):
                return b"(" + b"".join(b"J" + int(v).to_bytes(4, "little", signed=True)
                                       for v in values) + b"t"
            return (head + pid + b"J" + int(offset).to_bytes(4, "little", signed=True)
                    + numbers(shape) + numbers(stride) + b"\x89}tRs.")
        data = [("0", bytes(16))]
        self.path.write_bytes(torch_archive(program(0, [2, 2], [2, 1]), data))
        self.assertEqual(read_torch(self.path)["t"].shape, (2, 2))
        for bad in ((1, [2, 2], [2, 1]), (0, [5], [1]), (0, [2, 2], [9, 1]), (9, [1], [1]),
                    (0, [1 << 20, 1 << 20], [0, 0])):
            self.assertIn("leaves its storage", self.error(program(*bad), data))
        for bad in ((-1, [1], [1]), (0, [-1], [1]), (0, [1], [-1]), (0, [1, 1], [1])):
            self.assertIn("malformed", self.error(program(*bad), data))
        self.assertIn("4 elements", self.error(program(0, [1], [1]), [("0", bytes(12))]))
        self.assertIn("data/7 is missing", self.error(program(0, [1], [1], key="7"), data))
        self.assertIn("I64", self.error(program(0, [1], [1], kind="LongStorage"), data))

    def test_refuses_other_contents(self):
        self.assertIn("expected a dictionary", self.error(pickle.dumps([1], 2)))
        self.assertIn("'x' is a int", self.error(pickle.dumps({"x": 1}, 2)))
        self.assertIn("damaged", self.error(b"\x80\x02}"))
        self.assertIn("byteorder", self.error(pickle.dumps({}, 2), order=b"big"))
        self.assertIn("compressed", self.error(pickle.dumps({}, 2),
                                               compression=zipfile.ZIP_DEFLATED))
        self.path.write_bytes(b"not a zip file")
        with self.assertRaisesRegex(ConvertError, "torch.save"):
            read_torch(self.path)
        with self.assertRaisesRegex(ConvertError, "No such file"):
            read_torch(self.dir / "none.pt")

    def test_survives_random_damage(self):
        write_torch(self.path, {"t": tensor([[1.0, 2.0]], "BF16")})
        good, random = self.path.read_bytes(), np.random.default_rng(5)
        for _ in range(400):
            bad = bytearray(good)
            for place in random.integers(0, len(bad), random.integers(1, 4)):
                bad[place] = random.integers(0, 256)
            self.path.write_bytes(bad)
            try:
                read_torch(self.path)
            except ConvertError:
                pass


if __name__ == "__main__":
    unittest.main()
