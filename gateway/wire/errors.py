"""Two typed errors for faulty bytes from a connection.

Invariant: whatever a peer sends, the decoders of `gateway.wire` raise nothing else.
"""

from collections.abc import Sequence
from typing import final


@final
class MalformedRequest(Exception):
    """The bytes are not a request (or response) of that API and version; the connection closes."""

    def __init__(self, path: str, position: int, reason: str) -> None:
        super().__init__(f"{path or 'message'} at byte {position}: {reason}")
        self.path = path
        self.position = position
        self.reason = reason


@final
class InvalidBatch(Exception):
    """A record batch that must not be stored or cannot be opened; carries Kafka's error code.

    `record_errors` are (index in the batch, message) of the records that are the reason, if it is records.
    """

    def __init__(self, error_code: int, reason: str, record_errors: "Sequence[tuple[int, str | None]]" = ()) -> None:
        super().__init__(reason)
        self.error_code = error_code
        self.reason = reason
        self.record_errors = record_errors
