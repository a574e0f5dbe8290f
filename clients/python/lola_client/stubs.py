"""Finds the generated messages (package lola.v1), generating them when run from a checkout."""

import importlib
import os
import pathlib
import sys


def _add_generated():
    folder = os.environ.get("LOLA_STUBS")
    if not folder:
        python_client = pathlib.Path(__file__).resolve().parents[1]
        if not (python_client / "generate_stubs.py").exists():
            raise ImportError(
                "the package lola.v1 is not on the path: generate it with protoc from "
                "proto/lola/v1, or set LOLA_STUBS to the folder that holds it")
        sys.path.insert(0, str(python_client))
        try:
            folder = str(importlib.import_module("generate_stubs").generate())
        finally:
            sys.path.remove(str(python_client))
    sys.path.insert(0, folder)
    importlib.invalidate_caches()


try:
    importlib.import_module("lola.v1.inference_pb2_grpc")
except ModuleNotFoundError:
    _add_generated()

from lola.v1 import cluster_pb2, common_pb2, inference_pb2, worker_pb2  # noqa: E402
from lola.v1 import cluster_pb2_grpc, inference_pb2_grpc  # noqa: E402

__all__ = ["cluster_pb2", "cluster_pb2_grpc", "common_pb2", "inference_pb2", "inference_pb2_grpc",
           "worker_pb2"]
