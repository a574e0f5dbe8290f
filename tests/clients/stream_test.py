#!/usr/bin/python3
"""The Python client against a scripted gateway: order, reattaching, errors."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"))

import grpc  # noqa: E402
import lola_client  # noqa: E402
from fake_gateway import FakeGateway  # noqa: E402


def letters(begin, end):
    return "".join(chr(ord("a") + p % 26) for p in range(begin, end))


class StreamTest(unittest.TestCase):
    def setUp(self):
        self.gateway = FakeGateway()
        self.addCleanup(self.gateway.stop)
        self.client = lola_client.Client(f"127.0.0.1:{self.gateway.port}")
        self.addCleanup(self.client.close)

    def test_appends_and_generates_at_growing_positions(self):
        with self.client.open("s") as stream:
            done = stream.append("hello")
            self.assertEqual((done.reason, done.position), ("appended", 5))
            tokens = list(stream.generate(max_tokens=4))
            self.assertEqual([t.position for t in tokens], [5, 6, 7, 8])
            self.assertEqual("".join(t.text for t in tokens), letters(5, 9))
            self.assertEqual((stream.last.reason, stream.position), ("length", 9))

    def test_broken_calls_leave_no_gap_and_no_duplicate(self):
        self.gateway.break_after = [3, 0, 5, 7]
        with self.client.open("s") as stream:
            stream.append("ab")
            tokens = list(stream.generate(max_tokens=30))
            self.assertEqual([t.position for t in tokens], list(range(2, 32)))
            self.assertEqual("".join(t.text for t in tokens), letters(2, 32))
            self.assertEqual(stream.reattachments, 4)
        self.assertEqual({base for kind, base in self.gateway.operations if kind == "generate"},
                         {2})
        self.assertFalse(self.gateway.opens[-1].create_if_missing)
        self.assertEqual([o.resume for o in self.gateway.opens], [False] + [True] * 4)

    def test_leaving_the_loop_early_keeps_the_stream_usable(self):
        with self.client.open("s") as stream:
            for token in stream.generate(max_tokens=10):
                if token.position == 3:
                    break
            self.assertEqual(stream.position, 10)  # this gateway does not cancel
            self.assertEqual([t.position for t in stream.generate(max_tokens=2)], [10, 11])

    def test_history_comes_from_the_asked_position(self):
        with self.client.open("s") as stream:
            stream.append("xyz")
            stream.complete(max_tokens=3)
        with self.client.open("s", after_position=1) as stream:
            past = list(stream.history())
            self.assertEqual([(t.position, t.author) for t in past],
                             [(1, "client"), (2, "client"), (3, "model"), (4, "model"),
                              (5, "model")])
            self.assertTrue(all(t.replayed for t in past))
            self.assertEqual([t.position for t in stream.generate(max_tokens=1)], [6])

    def test_unread_history_is_not_taken_for_a_generation(self):
        self.gateway.log = [(1, 65), (2, 66), (2, 67)]
        with self.client.open("s", after_position=0) as stream:
            self.assertEqual([t.position for t in stream.generate(max_tokens=2)], [3, 4])
        self.gateway.break_after = [0]
        with self.client.open("s", after_position=0) as stream:
            self.assertEqual([t.position for t in stream.generate(max_tokens=2)], [5, 6])
            self.assertEqual(stream.reattachments, 1)

    def test_a_skipped_position_is_an_error(self):
        self.gateway.skip_position = 4
        with self.client.open("s") as stream:
            stream.append("ab")
            with self.assertRaisesRegex(lola_client.OrderError, "position 5 came too early"):
                list(stream.generate(max_tokens=6))

    def test_after_a_failed_operation_the_stream_goes_on_where_it_ends(self):
        self.gateway.fail_after = [3]
        with self.client.open("s") as stream:
            stream.append("ab")
            with self.assertRaisesRegex(lola_client.LolaError, "scripted failure"):
                list(stream.generate(max_tokens=6))
            done = stream.append("xy")  # behind what the failed generation had written
            self.assertEqual(self.gateway.operations[-1], ("append", 6))
            self.assertEqual((done.position, stream.position), (8, 8))
            self.assertEqual([t.position for t in stream.generate(max_tokens=2)], [8, 9])
        self.assertEqual([o.resume for o in self.gateway.opens], [False, False])

    def test_many_streams_that_lose_a_gateway_go_to_the_same_next_one(self):
        client = lola_client.Client(["127.0.0.1:1", "127.0.0.1:2"])
        self.addCleanup(client.close)
        lost = client.channel()
        for _ in range(2):  # each of them says so
            client.next_gateway(lost)
        self.assertIsNot(client.channel(), lost)

    def test_refusals_are_raised_at_once_and_outages_are_waited_for(self):
        self.gateway.refuse_next = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED]
        with self.client.open("s") as stream:
            self.assertEqual(stream.position, 0)
        self.assertEqual(len(self.gateway.opens), 3)
        self.gateway.refuse_next = [grpc.StatusCode.FAILED_PRECONDITION]
        with self.assertRaisesRegex(lola_client.Refused, "scripted refusal"):
            self.client.open("s")
        self.gateway.refuse_next = [grpc.StatusCode.RESOURCE_EXHAUSTED]
        with self.assertRaises(lola_client.Overloaded) as caught:
            self.client.open("s")
        self.assertIsNone(caught.exception.retry_after)

    def test_a_stream_cut_below_what_was_delivered_is_refused(self):
        self.gateway.break_after = [2]
        self.gateway.cut = 3
        with self.client.open("s") as stream:
            stream.append("abcdef")
            with self.assertRaisesRegex(lola_client.Refused, "rewound"):
                list(stream.generate(max_tokens=4))

    def test_another_gateway_takes_over(self):
        other = FakeGateway()
        self.addCleanup(other.stop)
        other.log = self.gateway.log
        client = lola_client.Client([f"127.0.0.1:{self.gateway.port}", f"127.0.0.1:{other.port}"])
        self.addCleanup(client.close)
        with client.open("s") as stream:
            seen = []
            for token in stream.generate(max_tokens=40):
                seen.append(token.position)
                if token.position == 5:
                    self.gateway.break_after = [0] * 100
                    self.gateway.stop()
            self.assertEqual(seen, list(range(40)))

    def test_nobody_there_is_unavailable_within_patience(self):
        client = lola_client.Client("127.0.0.1:1")
        with self.assertRaises(lola_client.Unavailable):
            client.open("s", patience=0.3)
        with self.assertRaisesRegex(lola_client.Unavailable, "Describe"):
            client.describe("s")

    def test_bad_arguments_name_the_field(self):
        with self.client.open("s") as stream:
            with self.assertRaisesRegex(lola_client.InvalidArgument, "append"):
                stream.append()
        with self.assertRaisesRegex(lola_client.InvalidArgument, "rewind"):
            self.client.rewind("s")


if __name__ == "__main__":
    unittest.main()
