"""Lets `python3 tools/convert` and `python3 -m convert` (from tools/) start the converter."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

try:
    import numpy  # noqa: F401
except ImportError:
    sys.exit("convert: needs numpy: install the package python3-numpy and use /usr/bin/python3, or "
             "pip install numpy")

from convert.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
