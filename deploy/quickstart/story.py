"""The steps of the quick start, in order. Each measures, checks, and says what it saw."""

import threading
import time

from feeding import Feeder, feed
from screen import human_bytes, human_seconds

STORY, BASE, TWIN = "story", "base", "twin"
# Randomness is a function of seed and position: a kill or a move changes no draw.
SAMPLING = {"temperature": 0.8, "seed": 7}
MEMORY_GROWTH_MAX = 0.05  # of the workers' resident memory, after the first tenth of the tokens


class CheckFailed(Exception):
    """Something the product promises did not hold."""


class Story:
    """State shared by the steps. `measured`: rows of the closing table."""

    def __init__(self, screen, cluster, client, text, options):
        self.screen, self.cluster, self.client = screen, cluster, client
        self.text, self.options = text, options
        self.keys = text.keys(options.keys)
        self.stream = None
        self.measured = []

    # --- 1, 2: the system, the text -------------------------------------------------------

    def start(self):
        self.screen.step("Starting gateway, 2 workers, 2 memory shards on loopback")
        began = time.monotonic()
        self.cluster.start()
        self.cluster.wait_healthy(self.client)
        model = self.client.model()
        for process in self.cluster.processes:
            self.screen.fact(f"{process.name:<10} pid {process.pid:<8} {process.address}")
        self.screen.fact(f"model {model.name or self.options.model.name}: {model.parameters:,} "
                         f"parameters, {model.layers} layers, {model.instruction_class}; a state "
                         f"takes {human_bytes(model.state_bytes)}, for ever")
        self.screen.passed(f"up after {human_seconds(time.monotonic() - began)}")
        self.measured.append(("state of a stream, at any length", human_bytes(model.state_bytes)))

    def feed(self):
        tokens, piece = self.options.tokens, self.options.piece
        self.screen.step(f"Feeding {tokens:,} tokens with {len(self.keys)} pass keys planted")
        self.stream = self.client.open(STORY)
        base = self.client.open(BASE, settings={"cache_pairs": 0})
        settings = self.stream.opened.info.settings
        self.screen.fact(f"stream '{STORY}': LoLA, window {settings.window}, sparse cache "
                         f"{settings.cache_pairs} pairs a head; stream '{BASE}': the same text, "
                         "no sparse cache")
        self._part_workers(BASE)
        pieces = list(self.text.pieces(tokens, self.keys, piece))
        total = sum(len(p) for p in pieces)
        feeders = [Feeder(self.stream, pieces), Feeder(base, pieces)]
        seconds, watch = feed(self.screen, self.cluster.workers, feeders, total, self._alive)
        base.close()
        self._check(self.stream.position == total, f"{total:,} tokens written, position is "
                    f"{self.stream.position:,}")
        self.screen.passed(f"{total:,} tokens into each stream in {human_seconds(seconds)} "
                           f"({2 * total / seconds:,.0f} tokens/s together), all durable")
        early, largest, growth = watch.growth(total)
        self._check(growth <= MEMORY_GROWTH_MAX or self.options.smoke,
                    f"workers' memory grew from {human_bytes(early)} to {human_bytes(largest)}")
        self.screen.passed(f"workers' resident memory: {human_bytes(early)} at a tenth of the way, "
                           f"at most {human_bytes(largest)} later ({growth:+.1%})")
        self.measured += [
            ("tokens fed into each of two streams", f"{total:,}"),
            ("feeding, both together", f"{2 * total / seconds:,.0f} tokens/s"),
            ("workers' resident memory, 10 % to 100 %",
             f"{human_bytes(early)} to {human_bytes(largest)} ({growth:+.1%})")]

    # --- 3, 4, 5: disturbances ------------------------------------------------------------

    def kill_worker(self):
        self.screen.step("kill -9 of the owning worker in mid-sentence")
        name, digits = self.keys[0]
        question = self.text.question(name)
        victim = self._owner(STORY)

        def kill():
            self.screen.write(f" [kill -9 {victim.name}, pid {victim.pid}] ", "red")
            victim.kill()

        pause = self._disturbed(question, at=3, act=kill)
        self._check(bool(self.stream.notices), "no other worker took over: killed too late")
        now = self._owner(STORY)
        self.screen.passed(f"{now.name} went on; longest pause {human_seconds(pause)}; the client "
                           "saw one open call, no gap, no duplicate, the undisturbed tokens")
        victim.start()
        victim.wait_listening()
        self.cluster.wait_healthy(self.client)
        self.measured.append(("kill -9 of the worker: longest pause", human_seconds(pause)))

    def migrate(self):
        self.screen.step("Moving the stream to another worker while it speaks")
        moved = []

        def move():
            self.screen.write(" [moving] ", "yellow")
            threading.Thread(target=lambda: moved.append(self.client.migrate(STORY)),
                             daemon=True).start()

        before = self._owner(STORY)
        pause = self._disturbed("", at=20, act=move)
        deadline = time.monotonic() + 30
        while not moved and time.monotonic() < deadline:
            time.sleep(0.02)
        after = self._owner(STORY)
        self._check(bool(moved) and after is not before, "the stream did not move")
        self.screen.passed(f"{before.name} to {after.name} in {human_seconds(moved[0].seconds)}, "
                           f"{moved[0].replayed_tokens} tokens computed again; longest pause "
                           f"{human_seconds(pause)}; the undisturbed tokens")
        self.measured.append(("migration: longest pause", human_seconds(pause)))

    def kill_shard(self):
        self.screen.step("kill -9 of the stream's memory shard, and its restart")
        shard = self.cluster.shard_of_partition(self.client.describe(STORY).partition)

        def kill():
            self.screen.write(f" [kill -9 {shard.name}, pid {shard.pid}] ", "red")
            shard.kill()
            shard.start()
            shard.wait_listening()
            self.screen.write(f"[{shard.name} is back, pid {shard.pid}] ", "yellow")

        pause = self._disturbed("", at=20, act=kill)
        self.screen.passed(f"{shard.name} continued on its folder; longest pause "
                           f"{human_seconds(pause)}; the undisturbed tokens")
        self.measured.append(("kill -9 and restart of the shard: longest pause",
                              human_seconds(pause)))

    # --- 6, 7: forks, questions -----------------------------------------------------------

    def fork(self):
        self.screen.step("Forking the stream: one past, two futures")
        end = self.stream.position
        began = time.monotonic()
        self.client.fork(STORY, "other")
        seconds = time.monotonic() - began
        texts = []
        with self.client.open("other", create=False) as other:
            self._check(other.position == end, f"fork ends at {other.position}, not {end}")
            for stream, word in ((self.stream, "The quiet owl "), (other, "There is snow over ")):
                stream.append(word)
                texts.append(word + stream.complete(max_tokens=60, ignore_eos=True,
                                                    sampling=SAMPLING))
        for name, text in zip((STORY, "other"), texts):
            self.screen.fact(f"{name:<6} {_readable(text)}")
        self._check(texts[0] != texts[1], "both forks wrote the same")
        self.screen.passed(f"forked {end:,} tokens in {human_seconds(seconds)}")
        self.measured.append((f"fork of a stream of {end:,} tokens", human_seconds(seconds)))

    def ask(self):
        self.screen.step("Asking for the pass keys (each question to a fork of its own)")
        right = {STORY: 0, BASE: 0}
        self.screen.fact(f"{'name':<6}{'tokens ago':>12}  {'truth':<8}{'LoLA':<10}base")
        ends = {stream: self.client.describe(stream).committed_position for stream in right}
        for index, (name, digits) in enumerate(self.keys):
            said = {stream: self._answer(stream, name, index) for stream in right}
            for stream in right:
                right[stream] += said[stream] == digits
            ago = ends[STORY] - self.options.tokens * index // len(self.keys)
            mark = "green" if said[STORY] == digits else "red"
            self.screen.line(f"      {name:<6}{ago:>12,}  {digits:<8}" +
                             self.screen.paint(f"{_readable(said[STORY]):<10}", mark) +
                             _readable(said[BASE]))
        count = len(self.keys)
        if not self.options.smoke:
            self._check(right[STORY] >= 0.75 * count,
                        f"LoLA answered {right[STORY]} of {count}")
        self.screen.passed(f"LoLA {right[STORY]} of {count}, base {right[BASE]} of {count}")
        self.measured.append(("pass keys answered, LoLA beside base",
                              f"{right[STORY]} of {count} beside {right[BASE]} of {count}"))

    # --- inside ---------------------------------------------------------------------------

    def _answer(self, stream, name, index):
        fork = f"{stream}-asked-{index}"
        self.client.fork(stream, fork)
        with self.client.open(fork, create=False) as asked:
            asked.append(self.text.question(name))
            answer = asked.complete(max_tokens=self.text.digits)
        self.client.delete(fork)
        return answer

    def _disturbed(self, prompt, at, act):
        """Generates on the story while `act` happens after `at` tokens.

        Compares with an undisturbed fork. Returns the longest time between two tokens.
        """
        count = self.options.generate
        self.client.fork(STORY, TWIN)
        with self.client.open(TWIN, create=False) as twin:
            expected = self._speak(twin, prompt, count, shown=0)[0]
        self.client.delete(TWIN)
        self.stream.notices.clear()
        got, pause = self._speak(self.stream, prompt, count, 160, at, act)
        self._check(got == expected, f"{_first_difference(got, expected)} of {count} generated "
                    "tokens differs from the undisturbed stream")
        return pause

    def _speak(self, stream, prompt, count, shown, at=None, act=None):
        if prompt:
            stream.append(prompt)
        ids, pause, last = [], 0.0, None
        if shown:
            self.screen.write("      " + self.screen.paint(_readable(prompt), "dim"))
        for token in stream.generate(max_tokens=count, ignore_eos=True, sampling=SAMPLING):
            now = time.monotonic()
            pause = max(pause, now - (last or now))
            last = now
            if len(ids) < shown:
                self.screen.write(_readable(token.text), "cyan")
            ids += token.ids
            if act is not None and len(ids) >= at:
                act()
                act = None
        if shown:
            self.screen.line(f" ... ({len(ids)} tokens)")
        return ids, pause

    def _owner(self, stream_id):
        owner = self.cluster.worker_at(self.client.describe(stream_id).owner)
        self._check(owner is not None, f"nobody owns stream '{stream_id}'")
        return owner

    def _part_workers(self, stream_id):
        """Both processors have work: `stream_id` goes where the story is not."""
        if self._owner(stream_id) is self._owner(STORY):
            self.client.migrate(stream_id)

    def _alive(self):
        dead = self.cluster.dead()
        if dead:
            raise CheckFailed(f"{dead[0].name} died")

    def _check(self, condition, text):
        if not condition:
            raise CheckFailed(text)


def _readable(text):
    return "".join(c if c.isprintable() else "." for c in text)


def _first_difference(got, expected):
    for index, (left, right) in enumerate(zip(got, expected)):
        if left != right:
            return f"number {index}"
    return f"the length ({len(got)}, not {len(expected)})"
