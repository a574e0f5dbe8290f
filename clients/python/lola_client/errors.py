"""Exceptions. Each carries the service's message, which names the field and both values."""

import grpc


class LolaError(Exception):
    """Base of all. `code` is the gRPC status code's name, `details` named facts beside it."""

    def __init__(self, message, code="UNKNOWN", details=None):
        super().__init__(message)
        self.code = code
        self.details = details or {}


class NotFound(LolaError):
    """No such stream, snapshot or worker."""


class InvalidArgument(LolaError):
    """A field of the request is not acceptable; the message names it."""


class Refused(LolaError):
    """The request does not fit the stream's state: other settings, other tokens there, another
    model, an id that is taken. Nothing was changed."""


class Overloaded(LolaError):
    """A limit is reached. `retry_after` is the service's hint in seconds, or None."""

    @property
    def retry_after(self):
        hint = self.details.get("retry_after_ms")
        return int(hint) / 1000 if hint and hint.isdigit() else None


class Unavailable(LolaError):
    """Nobody who can serve the request could be reached within the client's patience."""


class Aborted(LolaError):
    """The request met a change of owner; it may be tried again."""


class DataLoss(LolaError):
    """Stored bytes do not verify."""


class DeadlineExceeded(LolaError):
    """No answer in time."""


class Cancelled(LolaError):
    """The call was cancelled."""


class OrderError(LolaError):
    """A token position came twice or was skipped. Must never happen."""


_BY_CODE = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.ALREADY_EXISTS: Refused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.ABORTED: Aborted,
    grpc.StatusCode.DATA_LOSS: DataLoss,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}
# A new attachment can succeed where the old one ended like this.
RETRYABLE = (Unavailable, Aborted, Overloaded, Cancelled)


def from_rpc(error, context=""):
    """The exception for a grpc.RpcError. `context` goes in front of the message."""
    details = {}
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for line in value.decode("utf-8", "replace").splitlines():
                name, equals, fact = line.partition("=")
                if equals:
                    details[name] = fact
    message = error.details() or error.code().name
    kind = _BY_CODE.get(error.code(), LolaError)
    return kind(f"{context}: {message}" if context else message, error.code().name, details)
