"""Connection to the service: streams, and everything that is one question and one answer."""

import threading
import uuid

import grpc

from . import errors
from .stream import Stream
from .stubs import cluster_pb2, cluster_pb2_grpc, inference_pb2, inference_pb2_grpc

# A cut connection is noticed within about 1.5 s.
CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 500),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),  # in truth: what one attempt to connect gets
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.max_receive_message_length", 8 << 20),
)


class Client:
    """Talks to one or several gateways, which are equal: when one is gone, the next is asked.

    `endpoints`: "host:port", or a list. `credentials`: from grpc.ssl_channel_credentials; None is
    plain text. `timeout`: seconds for a question. Safe for use from many threads.
    """

    def __init__(self, endpoints="127.0.0.1:50051", credentials=None, timeout=30.0):
        self.endpoints = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        if not self.endpoints:
            raise errors.InvalidArgument("endpoints: empty", "INVALID_ARGUMENT")
        self.timeout = timeout
        self._credentials = credentials
        self._lock = threading.Lock()
        self._channels = {}
        self._current = 0

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def close(self):
        with self._lock:
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    # --- used by Stream -------------------------------------------------------------------

    def channel(self):
        """The channel to the gateway that is asked now."""
        with self._lock:
            endpoint = self.endpoints[self._current % len(self.endpoints)]
            if endpoint not in self._channels:
                if self._credentials is None:
                    made = grpc.insecure_channel(endpoint, CHANNEL_OPTIONS)
                else:
                    made = grpc.secure_channel(endpoint, self._credentials, CHANNEL_OPTIONS)
                self._channels[endpoint] = made
            return self._channels[endpoint]

    def next_gateway(self, failed):
        """The gateway behind the channel `failed` did not answer: the next one has its turn.

        Once, however many streams find that out.
        """
        with self._lock:
            endpoint = self.endpoints[self._current % len(self.endpoints)]
            if self._channels.get(endpoint) is failed:
                self._current += 1

    # --- streams --------------------------------------------------------------------------

    def open(self, stream_id, create=True, **options):
        """Opens (or creates) a stream; see Stream for the options. Use as context manager."""
        stream = Stream(self, stream_id, create_if_missing=create, **options)
        stream.open()
        return stream

    def describe(self, stream_id):
        return self._ask("Describe", inference_pb2.DescribeRequest(stream_id=stream_id))

    def list(self, id_prefix="", labels=None, page_size=100):
        """Iterates over the StreamInfo of all streams that match."""
        token = ""
        while True:
            reply = self._ask("List", inference_pb2.ListRequest(
                id_prefix=id_prefix, labels=labels or {}, page_size=page_size, page_token=token))
            yield from reply.streams
            token = reply.next_page_token
            if not token:
                return

    def fork(self, stream_id, new_stream_id, at_position=None, labels=None, request_id=None):
        """A new stream with the past of another. The same `request_id` again: the same child."""
        request = inference_pb2.ForkRequest(stream_id=stream_id, new_stream_id=new_stream_id,
                                            at_position=at_position, labels=labels or {},
                                            request_id=request_id or uuid.uuid4().hex)
        return self._ask("Fork", request)

    def snapshot(self, stream_id, name):
        """Writes a snapshot, kept until the stream is deleted or rewound to before it."""
        return self._ask("Snapshot", inference_pb2.SnapshotRequest(stream_id=stream_id, name=name))

    def rewind(self, stream_id, position=None, snapshot=None, request_id=None):
        """Back to an earlier position, or to a named snapshot. Later tokens are gone.

        The same `request_id` again cuts nothing, whatever was written since.
        """
        if (position is None) == (snapshot is None):
            raise errors.InvalidArgument("rewind: give position or snapshot", "INVALID_ARGUMENT")
        request = inference_pb2.RewindRequest(stream_id=stream_id, position=position,
                                              snapshot_name=snapshot,
                                              request_id=request_id or uuid.uuid4().hex)
        return self._ask("Rewind", request)

    def delete(self, stream_id):
        self._ask("Delete", inference_pb2.DeleteRequest(stream_id=stream_id))

    def inspect(self, stream_id, layer=None, head=None):
        """What the sparse cache holds, by layer and head, with recall errors."""
        return self._ask("InspectMemory", inference_pb2.InspectMemoryRequest(
            stream_id=stream_id, layer=layer, head=head))

    def model(self):
        return self._ask("DescribeModel", inference_pb2.DescribeModelRequest())

    # --- operating the cluster ------------------------------------------------------------

    def map(self):
        return self._ask("GetMap", cluster_pb2.GetMapRequest(), cluster=True)

    def workers(self):
        reply = self._ask("ListWorkers", cluster_pb2.ListWorkersRequest(), cluster=True)
        return list(reply.workers)

    def migrate(self, stream_id, target=""):
        """Moves the stream to the worker `target`, or to any other one. Clients notice nothing."""
        request = cluster_pb2.MigrateRequest(stream_id=stream_id, target=target)
        return self._ask("Migrate", request, cluster=True)

    def drain(self, worker, deadline=30.0):
        request = cluster_pb2.DrainWorkerRequest(address=worker, deadline_ms=int(deadline * 1000))
        return self._ask("DrainWorker", request, cluster=True, timeout=deadline + 10)

    def _ask(self, method, request, cluster=False, timeout=None):
        """One question, to each gateway in turn until one can be reached."""
        for attempt in range(len(self.endpoints)):
            stub_class = cluster_pb2_grpc.ClusterStub if cluster else (
                inference_pb2_grpc.InferenceStub)
            channel = self.channel()
            stub = stub_class(channel)
            try:
                return getattr(stub, method)(request, timeout=timeout or self.timeout)
            except grpc.RpcError as error:
                problem = errors.from_rpc(error, method)
                unreachable = isinstance(problem, errors.Unavailable)
                if not unreachable or attempt + 1 == len(self.endpoints):
                    raise problem from None
                self.next_gateway(channel)
        raise AssertionError("not reached")
