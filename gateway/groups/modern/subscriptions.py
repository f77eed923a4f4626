"""The topics that the members of one group want, by name and by regular expression, and those of them that exist.

Topics that are newly wanted, or that came, went or grew, are looked up later, a bounded number at a time: a member may
bring ten thousand names, and a regular expression may match every topic there is.

Keeps: a name is known as long as a member wants it; a regular expression is remembered as long as a member has it.
When all is looked up, `topics`, `partition_count` and `signature` are those of the wanted topics that exist.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from uuid import UUID

from gateway.groups.modern.topics import Topic, TopicView

LOOKS_AT_ONCE: Final = 2_000
"""Topics that one look goes through: some 3 ms."""
NOTHING: Final[frozenset[str]] = frozenset()


class Subscriptions:
    """One group's subscriptions."""

    def __init__(self, topics: TopicView) -> None:
        self._view = topics
        self.regexes: Counter[str] = Counter()
        #: Topics of each regular expression; one that is absent is not resolved yet.
        self.resolved: dict[str, frozenset[str]] = {}
        #: Whether those who last sent a regular expression may see a topic; absent if they may see all.
        self.sights: dict[str, Callable[[str], bool]] = {}
        #: The wanted topics that exist, by name, as they were when they were looked up.
        self.topics: dict[str, Topic] = {}
        self.partition_count = 0
        #: 64 bits that differ when topics or their partitions do. (Hashes of numbers are the same in every process.)
        self.signature = 0
        self._wanted: Counter[str] = Counter()
        self._names: dict[UUID, str] = {}
        self._unseen: set[str] = set()

    def __repr__(self) -> str:
        return f"<Subscriptions to {len(self.topics)} topics, {len(self._unseen)} to be looked up>"

    # What members want

    def add(self, names: frozenset[str], regex: str) -> None:
        self._want(names)
        if regex:
            self.regexes[regex] += 1

    def remove(self, names: frozenset[str], regex: str) -> bool:
        """Forget one member's subscription; tell whether a regular expression has gone with it."""
        self._want_less(names)
        if not regex:
            return False
        self.regexes[regex] -= 1
        if self.regexes[regex]:
            return False
        del self.regexes[regex]
        self._want_less(self.resolved.pop(regex, NOTHING))
        self.sights.pop(regex, None)
        return True

    @property
    def is_resolved(self) -> bool:
        return len(self.resolved) == len(self.regexes)

    def resolve(self, regex: str, topics: frozenset[str]) -> bool:
        """Note the topics of a regular expression; tell whether they differ from those before."""
        before = self.resolved.get(regex, NOTHING)
        self.resolved[regex] = topics
        if before == topics:
            return False
        self._want(topics - before)
        self._want_less(before - topics)
        return True

    def wants(self, name: str) -> bool:
        return name in self._wanted

    def names_of(self, names: frozenset[str], regex: str) -> tuple[frozenset[str], frozenset[str]]:
        """The topics of one member's subscription, whether they exist or not: by name, and by regular expression."""
        return names, self.resolved.get(regex, NOTHING)

    def _want(self, names: frozenset[str]) -> None:
        self._unseen |= names - self._wanted.keys()
        self._wanted.update(names)

    def _want_less(self, names: frozenset[str]) -> None:
        for name in names:
            self._wanted[name] -= 1
            if not self._wanted[name]:
                del self._wanted[name]
                self._unseen.add(name)

    # What exists

    def topics_changed(self, names: Iterable[str] | None = None) -> None:
        """These topics came, went, grew or were made anew, or any have: they must be looked up again."""
        self._unseen.update(self._wanted if names is None else filter(self._wanted.__contains__, names))

    @property
    def is_seen(self) -> bool:
        """All is looked up."""
        return not self._unseen

    def look(self) -> None:
        """Look up topics that are to be looked up, `LOOKS_AT_ONCE` at most."""
        for _ in range(min(LOOKS_AT_ONCE, len(self._unseen))):
            name = self._unseen.pop()
            before = self.topics.get(name)
            now = self._view.topic(name) if name in self._wanted else None
            if before == now:
                continue
            if before is not None:
                del self.topics[name]
                self._names.pop(before.id, None)
                self._count(before, -before.partition_count)
            if now is not None:
                self.topics[name] = now
                self._names[now.id] = name
                self._count(now, now.partition_count)

    def _count(self, topic: Topic, partitions: int) -> None:
        self.partition_count += partitions
        self.signature ^= hash((topic.id.int, topic.partition_count))

    def is_wanted(self, names: frozenset[str], regex: str) -> Callable[[UUID], bool]:
        """Whether a topic exists and belongs to one member's subscription."""
        named, matched, name_of = names, self.resolved.get(regex, NOTHING), self._names

        def is_wanted(topic: UUID) -> bool:
            name = name_of.get(topic)
            return name is not None and (name in named or name in matched)

        return is_wanted


def ids_of(topics: Mapping[str, Topic], subscription: tuple[frozenset[str], frozenset[str]]) -> frozenset[UUID]:
    """The ids of a subscription's topics, of those that exist."""
    found = (topics.get(name) for names in subscription for name in names)
    return frozenset(topic.id for topic in found if topic is not None)
