"""The names of topics that were deleted, for clients that still ask for them by id.

A Java consumer of a regular expression (KIP-848) asks by id for the metadata of the topics that it was given. Kafka
answers the id of a deleted topic without a name. Over such an answer clients 4.1 to 4.3 throw in their network client:
what else came in with it is lost, the answer to a heartbeat too, and they never ask for metadata again. With the name
beside the same error they go on (`docs/decisions/0078-a-deleted-topics-id-has-its-name.md`).

Keeps: the newest `NAMES_MAX`, as long as the process lives. A client asks until its group has told it of the deletion,
some seconds later.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final
from uuid import UUID

NAMES_MAX: Final = 10_000
"""Topics whose names are kept: some 2 MB with names of the greatest length."""


class FormerNames:
    """Names by the ids of topics that are gone. No id is ever used again."""

    def __init__(self) -> None:
        self._names: OrderedDict[UUID, str] = OrderedDict()

    def __repr__(self) -> str:
        return f"<FormerNames of {len(self._names)} topics>"

    def note(self, topic_id: UUID, name: str) -> None:
        """A topic is gone."""
        self._names[topic_id] = name
        if len(self._names) > NAMES_MAX:
            self._names.popitem(last=False)

    def get(self, topic_id: UUID) -> str | None:
        """The name that a deleted topic had, if it is still known."""
        return self._names.get(topic_id)
