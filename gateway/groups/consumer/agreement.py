"""What the members of the classic protocol in a consumer group agree on.

Keeps: `members` counts them, and each protocol is counted once for each of them that supports it; a member comes,
changes or goes at a cost that does not depend on how many others there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from gateway.groups.consumer.messages import ClassicFacts


class Agreement:
    """See the module. Nothing is known of members of the consumer protocol: their facts are None."""

    def __init__(self) -> None:
        self.members = 0
        self._votes: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Agreement of {self.members} members, {len(self._votes)} protocols>"

    def join(self, facts: ClassicFacts | None) -> None:
        if facts is not None:
            self.members += 1
            self._votes.update(_names(facts))

    def leave(self, facts: ClassicFacts | None) -> None:
        if facts is None:
            return
        self.members -= 1
        for name in _names(facts):
            self._votes[name] -= 1
            if not self._votes[name]:
                del self._votes[name]

    def is_shared(self, names: Collection[str], own: ClassicFacts | None) -> bool:
        """Do all members but the one of these facts support one of these protocols?"""
        others = self.members - (own is not None)
        own_names: Collection[str] = _names(own) if own is not None else ()
        return any(self._votes[name] - (name in own_names) == others for name in names)


def _names(facts: ClassicFacts) -> frozenset[str]:
    return frozenset([name for name, _ in facts.protocols])
