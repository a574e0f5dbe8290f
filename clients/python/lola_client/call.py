"""One attachment to a stream: a bidirectional gRPC call with a queue in each direction."""

import queue
import threading

import grpc

from . import errors
from .stubs import inference_pb2_grpc

_REPLIES_WAITING_MAX = 256  # beyond it the service stops sending: a slow reader costs no memory


class Call:
    """REQUIRES: one thread receives; any thread sends."""

    def __init__(self, channel):
        self._requests = queue.SimpleQueue()
        self._replies = queue.Queue(_REPLIES_WAITING_MAX)
        self._closed = threading.Event()
        self._rpc = inference_pb2_grpc.InferenceStub(channel).Stream(
            iter(self._requests.get, None))
        threading.Thread(target=self._read, name="lola-stream", daemon=True).start()

    def send(self, request):
        self._requests.put(request)

    def receive(self, timeout):
        """The next reply; None when the service ended the call without an error."""
        try:
            reply = self._replies.get(timeout=timeout)
        except queue.Empty:
            raise errors.DeadlineExceeded(f"no reply for {timeout:g} s",
                                          "DEADLINE_EXCEEDED") from None
        if isinstance(reply, grpc.RpcError):
            raise errors.from_rpc(reply)
        return reply

    def finish(self, timeout):
        """Says that nothing more comes and waits for the service's end of the call."""
        self._requests.put(None)
        try:
            while self.receive(timeout) is not None:
                pass
        finally:
            self.drop()

    def drop(self):
        """Ends the call at once."""
        self._closed.set()
        self._requests.put(None)
        self._rpc.cancel()

    def _read(self):
        last = None
        try:
            for reply in self._rpc:
                if not self._pass_on(reply):
                    return
        except grpc.RpcError as error:
            last = error
        self._pass_on(last)

    def _pass_on(self, reply):
        while not self._closed.is_set():
            try:
                self._replies.put(reply, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False
