"""The recall text says what its classes, answers and documentation claim."""
import pathlib
import re
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tools" / "reference_model"))

import recall_mix  # noqa: E402
import recall_text  # noqa: E402
from recall_text import ANSWER, VALUE, RecallText, size_of  # noqa: E402

PROSE = "It rained all day. Nobody went out; the road was empty! Why? We cannot say. " * 400
STATEMENT = re.compile(r"The pass key of (\w+(?: \w+)?) is (?:now )?(\d+)\. ?")


def text_of(pieces):
    return "".join(text for text, _ in pieces)


class RecallTextTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        (pathlib.Path(self.folder.name) / "a.txt").write_text(PROSE)

    def source(self, seed=5, held_out=False):
        return RecallText(pathlib.Path(self.folder.name), seed, held_out)

    def test_a_document_has_its_length_and_repeats_with_its_seed(self):
        for kind in recall_text.FORMATS:
            for haystack in recall_text.HAYSTACKS:
                with self.subTest(kind=kind, haystack=haystack):
                    one = self.source().document(1500, kind, haystack, 3, numbers=0.2)
                    two = self.source().document(1500, kind, haystack, 3, numbers=0.2)
                    self.assertEqual(size_of(one), 1500)
                    self.assertEqual(text_of(one), text_of(two))

    def test_the_answer_is_the_newest_value_that_the_text_states(self):
        source, updated = self.source(), 0
        for _ in range(50):
            pieces = source.document(2000, "passkey", "prose", 4, update=0.5)
            ask = next(i for i, piece in enumerate(pieces) if piece[1] == ANSWER)
            head = text_of(pieces[:ask - 3])  # before the first question's words
            newest, times = {}, {}
            for key, value in STATEMENT.findall(head):
                newest[key] = value
                times[key] = times.get(key, 0) + 1
            asked = 0
            for i, (text, weight) in enumerate(pieces):
                if weight == ANSWER:
                    key = pieces[i - 2][0]
                    self.assertEqual(text, newest[key] + ".")
                    updated += times[key] == 2
                    asked += 1
            self.assertEqual(asked, 4)
        self.assertGreater(updated, 50)  # about half of 200

    def test_rulers_wording(self):
        pieces = self.source(held_out=True).document(1200, "ruler", "noise", 1, intro=True)
        key = next(pieces[i - 2][0] for i, piece in enumerate(pieces) if piece[1] == VALUE)
        value = next(text for text, weight in pieces if weight == VALUE)
        text = text_of(pieces)
        self.assertTrue(text.startswith("A special magic number is hidden within the following"))
        self.assertIn(f"One of the special magic numbers for {key} is: {value}.\n", text)
        self.assertTrue(text.endswith(
            f"\nWhat is the special magic number for {key} mentioned in the provided text? "
            f"The special magic number for {key} mentioned in the provided text is {value}.\n"))

    def test_statements_stay_out_of_the_window(self):
        source = self.source(held_out=True)
        for kind in recall_text.FORMATS:
            for _ in range(30):
                pieces = source.document(800, kind, "prose", 1, asked=1, near=192)
                begin = text_of(pieces).index(
                    next(text for text, weight in pieces if weight == VALUE))
                self.assertGreaterEqual(800 - begin, 192)

    def test_a_longer_number_is_another_value(self):
        for text, value, right in (("1234.", "1234", True), ("1234", "1234", True),
                                   ("12345", "1234", False), ("1234 5", "1234", True),
                                   (" 1234", "1234", False), ("123", "1234", False)):
            self.assertEqual(recall_text.says(text, value), right, text)

    def test_held_out_words_are_not_trained_on(self):
        trained, held = self.source(), self.source(held_out=True)
        self.assertFalse(set(trained.adjectives) & set(held.adjectives))
        self.assertFalse(set(trained.nouns) & set(held.nouns))

    def test_linearising_text_asks_only_what_the_window_holds(self):
        source, asked = self.source(), 0
        for _ in range(60):
            text = bytes(source.local_document(1024).tolist()[1:]).decode("latin1")
            found = {}
            for match in re.finditer(r"The ([a-z ]+ of [^.]+?) is (\d+)\.", text):
                if match.group(1) in found:
                    asked += 1
                    self.assertLess(match.end() - found[match.group(1)], 65)
                found[match.group(1)] = match.end()
            self.assertNotIn("mentioned in the provided text is", text)
        self.assertGreater(asked, 10)

    def test_training_batches_have_one_length_and_answers_in_every_row(self):
        mix = recall_mix.Mix(numbers=0.5, update=0.5, dense=0.3)
        for length in (193, 513, 1025):
            tokens, classes, labels = recall_mix.training_batch(self.source(), 12, length, mix)
            self.assertEqual(tokens.shape, (12, length))
            self.assertEqual(len(labels), 12)
            self.assertTrue(((classes == ANSWER).sum(1) > 0).all())
            self.assertTrue(((classes == VALUE).sum(1) > 0).all())


if __name__ == "__main__":
    unittest.main()
