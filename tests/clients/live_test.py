#!/usr/bin/python3
"""The Python client against real processes: two gateways, two workers, two shards, and kill -9.

LOLA_BINARIES names the folder of the programs (default: build/release/bin).
"""

import os
import pathlib
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "clients" / "python"), str(ROOT / "deploy" / "quickstart")]

import lola_client  # noqa: E402
from cluster import Cluster  # noqa: E402

BINARIES = os.environ.get("LOLA_BINARIES", str(ROOT / "build" / "release" / "bin"))
MODEL = ROOT / "tests" / "testdata" / "parity" / "tiny_model"


class LiveTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="lola-client-test-")
        cls.addClassCleanup(cls.folder.cleanup)
        cls.cluster = Cluster(BINARIES, cls.folder.name, MODEL, gateways=2)
        cls.addClassCleanup(cls.cluster.stop)
        try:
            cls.cluster.start()
        except Exception:
            cls.cluster.show_logs()
            raise
        cls.client = lola_client.Client(cls.cluster.endpoints)
        cls.addClassCleanup(cls.client.close)
        cls.cluster.wait_healthy(cls.client)

    def tearDown(self):
        for process in self.cluster.dead():
            process.start()
            process.wait_listening()
        self.cluster.wait_healthy(self.client)

    def generate(self, stream, count, at=None, act=None):
        """Token ids; `act` runs once when `at` tokens have arrived."""
        ids = []
        for token in stream.generate(max_tokens=count, ignore_eos=True):
            ids += token.ids
            if act is not None and len(ids) >= at:
                act()
                act = None
        return ids

    def undisturbed(self, prompt, count):
        with self.client.open(f"undisturbed-{len(prompt)}-{count}") as stream:
            stream.append(prompt)
            return self.generate(stream, count)

    def owner(self, stream_id):
        return self.cluster.worker_at(self.client.describe(stream_id).owner)

    def test_append_generate_describe_list_delete(self):
        with self.client.open("basic", labels={"kind": "test"}) as stream:
            self.assertEqual(stream.opened.restore.kind, "new")
            self.assertEqual(stream.append("hello").appended, 5)
            self.assertEqual(len(self.generate(stream, 20)), 20)
            self.assertEqual(stream.position, 25)
        info = self.client.describe("basic")
        self.assertEqual(info.committed_position, 25)
        self.assertIn("basic", [s.stream_id for s in self.client.list(labels={"kind": "test"})])
        self.client.delete("basic")
        with self.assertRaises(lola_client.NotFound):
            self.client.describe("basic")

    def test_history_equals_what_was_written(self):
        with self.client.open("history") as stream:
            stream.append("some words")
            written = self.generate(stream, 30)
        with self.client.open("history", after_position=0) as stream:
            past = list(stream.history())
        self.assertEqual(b"".join(bytes(t.ids) for t in past if t.author == "client"),
                         b"some words")
        self.assertEqual([i for t in past if t.author == "model" for i in t.ids], written)

    def test_kill_of_the_owner_is_invisible(self):
        expected = self.undisturbed("kill the worker", 400)
        with self.client.open("worker-kill") as stream:
            stream.append("kill the worker")
            ids = self.generate(stream, 400, 50, lambda: self.owner("worker-kill").kill())
            self.assertEqual(ids, expected)
            self.assertEqual(stream.reattachments, 0)

    def test_kill_of_the_gateway_is_answered_by_the_other_one(self):
        expected = self.undisturbed("kill the gateway", 400)
        with self.client.open("gateway-kill") as stream:
            stream.append("kill the gateway")
            gateway = next(g for g in self.cluster.gateways
                           if g.address == self.client.endpoints[self.client._current % 2])
            ids = self.generate(stream, 400, 50, gateway.kill)
            self.assertEqual(ids, expected)
            self.assertGreaterEqual(stream.reattachments, 1)

    def test_migration_fork_snapshot_rewind_inspect(self):
        with self.client.open("moves") as stream:
            stream.append("a common past, ")
            before = self.owner("moves").address
            self.client.snapshot("moves", "start")
            first = self.generate(stream, 200, 20, lambda: self.client.migrate("moves"))
            self.assertNotEqual(self.owner("moves").address, before)
        self.client.fork("moves", "moves-fork", at_position=15, request_id="f")
        again = self.client.fork("moves", "moves-fork", at_position=15, request_id="f")
        self.assertEqual(again.forked_at, 15)
        with self.client.open("moves-fork", create=False) as fork:
            self.assertEqual(fork.position, 15)
            self.assertEqual(self.generate(fork, 200), first)
        self.client.rewind("moves", snapshot="start", request_id="r")
        with self.client.open("moves", create=False) as stream:
            self.assertEqual(stream.position, 15)
            self.assertEqual(self.generate(stream, 200), first)
            late = self.client.rewind("moves", snapshot="start", request_id="r")
            self.assertEqual(late.committed_position, 15)
            self.assertEqual(self.client.describe("moves").committed_position, 215)
        left, right = (self.client.inspect(s) for s in ("moves", "moves-fork"))
        self.assertEqual(left.state_digest, right.state_digest)
        self.assertTrue(left.heads)

    def test_leaving_a_generation_cancels_it(self):
        with self.client.open("leaver") as stream:
            stream.append("x")
            for token in stream.generate(max_tokens=100000, ignore_eos=True):
                if token.position > 20:
                    break
            self.assertEqual(stream.last.reason, "cancelled")
            self.assertLess(stream.position, 90000)
            self.assertEqual(len(self.generate(stream, 5)), 5)

    def test_refusals_carry_code_and_field(self):
        with self.assertRaises(lola_client.NotFound):
            self.client.open("missing", create=False)
        with self.assertRaisesRegex(lola_client.InvalidArgument, "stream_id"):
            self.client.open("no spaces allowed")
        with self.assertRaisesRegex(lola_client.LolaError, "model_fingerprint"):
            self.client.open("other-model", model_fingerprint="0000")
        with self.client.open("settled", settings={"cache_pairs": 8}):
            pass
        with self.assertRaisesRegex(lola_client.Refused, "cache_pairs"):
            self.client.open("settled", settings={"cache_pairs": 9})


if __name__ == "__main__":
    unittest.main()
