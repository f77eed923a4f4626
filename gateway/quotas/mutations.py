"""What one request may make and delete of partitions (`controller_mutation_rate`, KIP-599).

Keeps: a strict request is refused item by item as long as its client owes tokens, before anything is changed; a request
of an older version, whose client does not know that refusal, is served and only made to pause.
"""

from __future__ import annotations

from kio.schema.errors import ErrorCode

from gateway.quotas.quotas import MUTATED, Quotas
from gateway.refusals import Refusal


class Mutations:
    """The partitions of one request. `is_strict`: it is refused what its client has no tokens for."""

    def __init__(self, quotas: Quotas, user: str, client_id: str | None, *, is_strict: bool) -> None:
        self._quotas = quotas
        self._user = user
        self._client_id = client_id
        self._is_strict = is_strict
        self.pause_ms = 0
        """How long its client must pause."""

    def charge(self, partitions: int) -> None:
        """Take tokens for partitions that are about to be made or deleted. Raises Refusal."""
        if not self._quotas.is_on:
            return
        if self._is_strict and (owed_ms := self._quotas.owed_ms(self._user, self._client_id)):
            self._pause(owed_ms)
            raise Refusal(ErrorCode.throttling_quota_exceeded, "The throttling quota has been exceeded.")
        owed_ms = self._quotas.take(self._user, self._client_id, partitions)
        if not self._is_strict:
            self._pause(owed_ms)

    def _pause(self, owed_ms: int) -> None:
        self.pause_ms = owed_ms
        self._quotas.pauses[MUTATED] += owed_ms > 0
