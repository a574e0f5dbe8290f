"""Where things are, for the tests of this folder."""

import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BINARIES = pathlib.Path(os.environ.get("LOLA_BINARIES", ROOT / "build" / "release" / "bin"))
TINY_MODEL = ROOT / "tests" / "testdata" / "parity" / "tiny_model"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "lola.json"
sys.path[:0] = [str(DEPLOY / "quickstart"), str(ROOT / "clients" / "python")]
