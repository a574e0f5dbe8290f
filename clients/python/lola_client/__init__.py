"""Client of LoLA stream memory: token streams that outlive every process. See README.md."""

from .client import Client
from .errors import (Aborted, Cancelled, DeadlineExceeded, DataLoss, InvalidArgument, LolaError,
                     NotFound, OrderError, Overloaded, Refused, Unavailable)
from .stream import Done, Stream, Token

__all__ = [
    "Aborted", "Cancelled", "Client", "DataLoss", "DeadlineExceeded", "Done", "InvalidArgument",
    "LolaError", "NotFound", "OrderError", "Overloaded", "Refused", "Stream", "Token",
    "Unavailable",
]
