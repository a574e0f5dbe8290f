"""A gateway whose behaviour a test scripts: it keeps one stream as a list and breaks calls on
demand. Serves lola.v1.Inference/Stream from a thread in this process, on loopback."""

import concurrent.futures

import grpc

from lola_client.stubs import common_pb2, inference_pb2, inference_pb2_grpc

CLIENT, MODEL = common_pb2.TOKEN_AUTHOR_CLIENT, common_pb2.TOKEN_AUTHOR_MODEL


class FakeGateway(inference_pb2_grpc.InferenceServicer):
    """The "model" answers position p with byte ord('a') + p % 26."""

    def __init__(self):
        self.log = []              # (author, id)
        self.break_after = []      # one entry per call: break after so many generated tokens
        self.fail_after = []       # one entry per call: as break_after, with INTERNAL
        self.skip_position = None  # lie: leave this position out
        self.cut = None            # lose all but so many tokens when a broken call comes back
        self.opens = []            # OpenStream messages seen
        self.operations = []       # (kind, base position) seen
        self.refuse_next = []      # grpc status codes for coming calls
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
        inference_pb2_grpc.add_InferenceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def stop(self):
        self.server.stop(None)

    # --- the service ----------------------------------------------------------------------

    def Stream(self, requests, context):
        request = next(requests)
        self.opens.append(request.open)
        if self.refuse_next:
            context.abort(self.refuse_next.pop(0), "scripted refusal")
        if self.cut is not None and request.open.HasField("after_position"):
            del self.log[self.cut:]
        left = self.break_after.pop(0) if self.break_after else None
        fails = self.fail_after.pop(0) if self.fail_after else None
        opened = inference_pb2.OpenedStream(position=len(self.log))
        opened.info.stream_id = request.open.stream_id
        yield inference_pb2.StreamReply(request_id=request.request_id, opened=opened)
        resume = request.open.resume
        if request.open.HasField("after_position") and not resume:
            for position in range(request.open.after_position, len(self.log)):
                yield self._token(request.request_id, position, replayed=True)
        sent = request.open.after_position if resume else len(self.log)
        for request in requests:
            if request.HasField("append"):
                self._append(request.append)
                sent = len(self.log)
                yield self._done(request, common_pb2.FINISH_REASON_APPENDED)
            if request.HasField("generate"):
                base = request.generate.base_position
                self.operations.append(("generate", base))
                for position in range(base, base + request.generate.max_tokens):
                    if position == len(self.log):
                        self.log.append((MODEL, ord("a") + position % 26))
                    if position < sent or position == self.skip_position:
                        continue
                    if left == 0:
                        context.abort(grpc.StatusCode.UNAVAILABLE, "scripted break")
                    if fails == 0:
                        context.abort(grpc.StatusCode.INTERNAL, "scripted failure")
                    yield self._token(request.request_id, position)
                    fails = None if fails is None else fails - 1
                    left = None if left is None else left - 1
                sent = len(self.log)
                yield self._done(request, common_pb2.FINISH_REASON_LENGTH)

    def _append(self, append):
        ids = list(append.text.encode()) if append.HasField("text") else list(append.tokens.ids)
        base = append.base_position
        self.operations.append(("append", base))
        for offset, token in enumerate(ids):
            if base + offset == len(self.log):
                self.log.append((CLIENT, token))

    def _token(self, request_id, position, replayed=False):
        author, token = self.log[position]
        return inference_pb2.StreamReply(request_id=request_id, tokens=inference_pb2.TokenOutput(
            position=position, ids=[token], text=chr(token), author=author, replayed=replayed))

    def _done(self, request, reason):
        return inference_pb2.StreamReply(
            request_id=request.request_id,
            done=inference_pb2.OpDone(finish_reason=reason, position=len(self.log)))
