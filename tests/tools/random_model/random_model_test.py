"""Directories of random weights: read by the converter's reader, the same from the same seed."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOLS = pathlib.Path(__file__).resolve().parents[3] / "tools"
sys.path.insert(0, str(TOOLS))

import numpy as np  # noqa: E402
from convert.base_model import read_base  # noqa: E402


def run(*arguments):
    return subprocess.run([sys.executable, TOOLS / "random_model.py", *map(str, arguments)],
                          capture_output=True, text=True)


class RandomModel(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_one_file_and_shards_hold_the_same_weights(self):
        models = []
        for files in (1, 3):
            ran = run("--shape", "tiny", "--files", files, self.folder / str(files))
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertIn(f"in {files} file(s)", ran.stdout)
            models.append(read_base(self.folder / str(files)))
        one, shards = models
        self.assertEqual(len(list((self.folder / "3").glob("*.safetensors"))), 3)
        for name, tensor in one.tensors.items():
            values = tensor.values()
            np.testing.assert_array_equal(values, shards.tensors[name].values(), name)
            self.assertTrue(np.isfinite(values).all() and values.any(), name)

    def test_refuses_what_is_there_and_what_makes_no_model(self):
        (self.folder / "there").mkdir()
        self.assertIn("exists already", run(self.folder / "there").stderr)
        self.assertIn("must be positive", run("--files", 0, self.folder / "x").stderr)
        self.assertFalse((self.folder / "x").exists())


if __name__ == "__main__":
    unittest.main()
