"""A stream: append text, generate tokens, never lose or repeat one.

Every operation carries the position it starts at, every token its own. When the connection to the
gateway is lost, the stream attaches again (to the next gateway, if there are several), asks for
everything after the last token it has, and sends the running operation again with the same base
position: the service compares it with its log and continues where it was.
"""

import dataclasses
import time

from . import errors
from .call import Call
from .stubs import common_pb2, inference_pb2

_MODEL = common_pb2.TOKEN_AUTHOR_MODEL
_RETRY_PAUSE = 0.05  # seconds; doubles up to 1


@dataclasses.dataclass(frozen=True)
class Token:
    """Tokens that arrived together. `position` is that of the first id."""
    position: int
    ids: tuple
    text: str
    author: str       # "model" or "client"
    replayed: bool    # read from the log, not generated now
    logprobs: tuple = ()


@dataclasses.dataclass(frozen=True)
class Done:
    """How an operation ended. `position` is the stream's length now."""
    reason: str       # "length" "stop" "eos" "cancelled" "appended"
    position: int
    appended: int
    generated: int


class Stream:
    """One attached client of a stream. Made by Client.open; one thread (cancel: any).

    create_if_missing, tenant, labels, settings, sampling, durability, model_fingerprint, ttl_ms:
        fields of OpenStream; settings and sampling may be dicts ({"cache_pairs": 0}).
    after_position: deliver every token from there on first; read them with `history()`.
    patience: seconds without any sign of life before an operation fails.
    on_notice: called with each Notice (stream moved, state restored).
    """

    def __init__(self, client, stream_id, after_position=None, patience=60.0, on_notice=None,
                 settings=None, sampling=None, **fields):
        if isinstance(settings, dict):
            settings = common_pb2.LolaSettings(**settings)
        if isinstance(sampling, dict):
            sampling = common_pb2.SamplingParams(**sampling)
        self._client = client
        self._open = inference_pb2.OpenStream(stream_id=stream_id, settings=settings,
                                              sampling=sampling, after_position=after_position,
                                              **fields)
        self._patience = patience
        self._on_notice = on_notice
        self._call = None
        self._channel = None    # of _call
        self._delivered = None  # every token below it was received, or written by this client
        self._cancel = False
        self._running = False   # an operation, that is sent again after a reattachment
        self._sequence = 0
        self.opened = None      # OpenedStream of the first attachment
        self.position = 0       # stream length as this client knows it
        self.last = None        # Done of the newest operation
        self.notices = []
        self.reattachments = 0

    @property
    def stream_id(self):
        return self._open.stream_id

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def open(self):
        """Attaches, trying for `patience` seconds. Returns OpenedStream."""
        self._retrying(lambda: None)
        return self.opened

    def close(self):
        """Leaves; the stream stays."""
        call, self._call = self._call, None
        if call is not None:
            try:
                call.finish(timeout=5.0)
            except errors.LolaError:
                pass  # nothing was under way: every operation waits for its end

    # --- operations -----------------------------------------------------------------------

    def append(self, text=None, tokens=None):
        """Adds text, or token ids, at the end. Durable when it returns. Returns Done."""
        if (text is None) == (tokens is None):
            raise errors.InvalidArgument("append: give text or tokens", "INVALID_ARGUMENT")
        request = self._request("append")
        request.append.base_position = self.position
        if text is not None:
            request.append.text = text
        else:
            request.append.tokens.ids.extend(tokens)
        for _ in self._run(request):
            pass
        return self.last

    def generate(self, max_tokens, stop=(), sampling=None, ignore_eos=False, logprobs=False):
        """Iterates over Token as the model writes them; each is durable when it arrives.

        Leaving the loop early cancels the rest. Afterwards `last` says how it ended.
        """
        if isinstance(sampling, dict):
            sampling = common_pb2.SamplingParams(**sampling)
        request = self._request("generate")
        request.generate.CopyFrom(inference_pb2.GenerateOp(
            max_tokens=max_tokens, stop=stop, sampling=sampling, ignore_eos=ignore_eos,
            logprobs=logprobs, base_position=self.position))
        tokens = self._run(request)
        try:
            yield from tokens
        except GeneratorExit:
            self.cancel()
            for _ in self._run(request, sent=True):
                pass
            raise

    def complete(self, max_tokens, **options):
        """The text of a whole generation."""
        return "".join(token.text for token in self.generate(max_tokens, **options))

    def cancel(self):
        """Ends the running generation early; from any thread. What is written stays."""
        self._cancel = True
        call = self._call
        if call is not None:
            call.send(inference_pb2.StreamRequest(cancel=inference_pb2.CancelOp()))

    def history(self):
        """Tokens between `after_position` and the end at opening. Call before any operation."""
        end = self.opened.position
        while self._delivered < end:
            yield from self._retrying(lambda: self._take(self._receive()))

    # --- inside ---------------------------------------------------------------------------

    def _request(self, kind):
        if self._call is None:  # after a failure: where the stream ends now, opening it tells
            self._retrying(lambda: None)
        self._sequence += 1
        self._cancel = False
        return inference_pb2.StreamRequest(
            request_id=f"{kind}-{self._sequence}@{self.position}")

    def _run(self, request, sent=False):
        """Sends the operation, again after every reattachment, and yields its tokens."""
        base = self.position
        call = self._call if sent else None

        def step():
            nonlocal call
            if call is not self._call:
                call = self._call
                call.send(request)
                if self._cancel:
                    self.cancel()
            reply = self._receive()
            if reply.HasField("done") and reply.request_id == request.request_id:
                return reply.done
            return self._take(reply)

        self._running = True
        try:
            while True:
                result = self._retrying(step)
                if isinstance(result, inference_pb2.OpDone):
                    return self._finish(request, result)
                for token in result:
                    if token.position >= base and token.author == "model":
                        yield token
        finally:
            self._running = False

    def _finish(self, request, done):
        if request.HasField("generate") and self._delivered != done.position:
            raise errors.OrderError(f"done at position {done.position} but tokens arrived up to "
                                    f"{self._delivered}", "INTERNAL")
        self.position = self._delivered = done.position
        reason = common_pb2.FinishReason.Name(done.finish_reason).rpartition("FINISH_REASON_")[2]
        self.last = Done(reason.lower(), done.position, done.usage.appended_tokens,
                         done.usage.generated_tokens)

    def _retrying(self, step):
        """step() on an attached call, attaching again as often as patience allows."""
        deadline, pause = time.monotonic() + self._patience, _RETRY_PAUSE
        while True:
            try:
                if self._call is None:
                    self._attach()
                return step()
            except errors.RETRYABLE as problem:
                self._drop()
                if isinstance(problem, errors.Overloaded) and problem.retry_after is None:
                    raise  # a limit that waiting does not lift
                if isinstance(problem, errors.Unavailable):
                    self._client.next_gateway(self._channel)
                if time.monotonic() + pause > deadline:
                    raise
                time.sleep(getattr(problem, "retry_after", None) or pause)
                pause = min(2 * pause, 1.0)
            except errors.LolaError:
                self._drop()
                raise

    def _attach(self):
        again = self.opened is not None
        request = inference_pb2.StreamRequest(request_id="open", open=self._open)
        if again:
            request.open.after_position = self._delivered
            request.open.create_if_missing = False
            # With history still to come, the log is what is wanted.
            request.open.resume = self._running and self._delivered >= self.position
        self._channel = self._client.channel()
        self._call = Call(self._channel)
        self._call.send(request)
        reply = self._receive()
        while not reply.HasField("opened"):
            reply = self._receive()
        if again:
            self.reattachments += 1
            if reply.opened.position < self._delivered:
                raise errors.Refused(
                    f"stream '{self.stream_id}' ends at position {reply.opened.position}, before "
                    f"position {self._delivered} that was already delivered: it was rewound",
                    "FAILED_PRECONDITION")
            if not self._running:  # what an operation that failed left behind is there to stay
                self.position = reply.opened.position
            return
        self.opened = reply.opened
        self.position = reply.opened.position
        asked = self._open.HasField("after_position")
        self._delivered = self._open.after_position if asked else self.position

    def _receive(self):
        reply = self._call.receive(self._patience)
        if reply is None:
            raise errors.Unavailable("the gateway ended the call", "UNAVAILABLE")
        if reply.HasField("notice"):
            self.notices.append(reply.notice)
            if self._on_notice is not None:
                self._on_notice(reply.notice)
        return reply

    def _take(self, reply):
        """The Token in a reply as a list of at most one, checked to follow the last one."""
        if not reply.HasField("tokens"):
            return []
        part = reply.tokens
        if part.ids:
            if part.position != self._delivered:
                kind = "came twice" if part.position < self._delivered else "came too early"
                raise errors.OrderError(f"position {part.position} {kind}, expected "
                                        f"{self._delivered}", "INTERNAL")
            self._delivered += len(part.ids)
        author = "model" if part.author == _MODEL else "client"
        return [Token(part.position, tuple(part.ids), part.text, author, part.replayed,
                      tuple(part.logprobs))]

    def _drop(self):
        call, self._call = self._call, None
        if call is not None:
            call.drop()
