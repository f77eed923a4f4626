"""What a SASL mechanism's exchange can come to at a step: it goes on, it is done, or it is refused.

Invariant: the reason of a refusal is for the log; no client gets it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class More:
    """The client has to answer this."""

    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """The client is this user. `ends_ms`: when the proof itself ends, in ms since 1970, if ever. `by_token`: it came by
    a delegation token, which is less than the user's own secret."""

    token: bytes = field(repr=False)
    user: str
    ends_ms: int | None = None
    by_token: bool = False


Step = More | Done


class Refused(Exception):
    """The client is not who it says. `user`: the name that it gave, if it got that far."""

    def __init__(self, why: str, user: str | None = None) -> None:
        super().__init__(why)
        self.user = user


class Exchange(Protocol):
    """The server's side of one exchange."""

    def is_slow(self, token: bytes) -> bool:
        """Does a step with this message compute for a millisecond or more?"""
        ...

    def step(self, token: bytes, now_ms: int) -> Step:
        """Take the client's next message. Raises Refused."""
        ...
