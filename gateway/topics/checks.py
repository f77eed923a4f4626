"""Checks of a topic that is to be made or to grow: its name, the number of its partitions.

Keeps: changes nothing; what is refused is refused in Kafka's words.
"""

from __future__ import annotations

import re
from typing import Final

from kio.schema.errors import ErrorCode

from core.errors import StreamSealed
from core.streams.live import Stream
from gateway.refusals import Refusal, refusal_of

NAME_CHARS_MAX: Final = 249
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")

PARTITIONS_PER_REQUEST_MAX: Final = 100_000
"""One request may not make more than this: a response of Metadata about them is 4 MB."""


def check_name(name: str) -> None:
    """Raises Refusal for what cannot be a topic's name."""
    if not name:
        why = "the empty string is not allowed"
    elif name in (".", ".."):
        why = f"'{name}' is not allowed"
    elif len(name) > NAME_CHARS_MAX:
        why = f"the length of '{name}' is longer than the max allowed length {NAME_CHARS_MAX}"
    elif not _NAME.fullmatch(name):
        why = f"'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    else:
        return
    raise Refusal(ErrorCode.invalid_topic_exception, f"Topic name is invalid: {why}")


def check_growth(stream: Stream, count: int) -> None:
    """Raises Refusal when that number of partitions is not more than there are."""
    if stream.is_sealed:
        raise refusal_of(StreamSealed(stream.name))
    now = stream.slot_count
    if count == now:
        raise Refusal(ErrorCode.invalid_partitions, f"Topic already has {now} partition(s).")
    if count < now:
        raise Refusal(
            ErrorCode.invalid_partitions,
            f"The topic {stream.name} currently has {now} partition(s); {count} would not be an increase.",
        )
    if count - now > PARTITIONS_PER_REQUEST_MAX:
        raise too_many_partitions()


def too_many_partitions() -> Refusal:
    return Refusal(ErrorCode.policy_violation, "Excessively large number of partitions per request.")
