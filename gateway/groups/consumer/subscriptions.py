"""The topics that the members of one group want: by name, and by regular expression.

Keeps: `names` and `regexes` count the members; a regular expression is remembered as long as a member has it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from uuid import UUID

from gateway.groups.consumer.messages import Topic, TopicView


class Subscriptions:
    """One group's subscriptions."""

    def __init__(self, topics: TopicView) -> None:
        self._topics = topics
        self.names: Counter[str] = Counter()
        self.regexes: Counter[str] = Counter()
        #: Topics of each regular expression; one that is absent is not resolved yet.
        self.resolved: dict[str, frozenset[str]] = {}
        #: Whether those who last sent a regular expression may see a topic; absent if they may see all.
        self.sights: dict[str, Callable[[str], bool]] = {}
        self._ids: dict[tuple[frozenset[str], str], frozenset[UUID]] = {}

    def add(self, names: frozenset[str], regex: str) -> None:
        self.names.update(names)
        if regex:
            self.regexes[regex] += 1

    def remove(self, names: frozenset[str], regex: str) -> bool:
        """Forget one member's subscription; tell whether a regular expression has gone with it."""
        for name in names:
            self.names[name] -= 1
            if not self.names[name]:
                del self.names[name]
        if not regex:
            return False
        self.regexes[regex] -= 1
        if self.regexes[regex]:
            return False
        del self.regexes[regex]
        self.resolved.pop(regex, None)
        self.sights.pop(regex, None)
        self.topics_changed()
        return True

    @property
    def is_resolved(self) -> bool:
        return len(self.resolved) == len(self.regexes)

    def visible(self, regex: str, topics: frozenset[str]) -> frozenset[str]:
        """Those of a regular expression's topics that its members may see."""
        may_see = self.sights.get(regex)
        return topics if may_see is None else frozenset(filter(may_see, topics))

    def resolve(self, regex: str, topics: frozenset[str]) -> bool:
        """Note the topics of a regular expression; tell whether they differ from those before."""
        before = self.resolved.get(regex, frozenset())
        self.resolved[regex] = topics
        self.topics_changed()
        return before != topics

    def all_names(self) -> set[str]:
        """Every topic that a member wants, whether it exists or not."""
        return set(self.names).union(*self.resolved.values())

    def wants(self, name: str) -> bool:
        return name in self.names or any(name in topics for topics in self.resolved.values())

    def topics_changed(self) -> None:
        """Topics came, went or were made anew: look them up again."""
        self._ids.clear()

    def topic_ids(self, names: frozenset[str], regex: str) -> frozenset[UUID]:
        """The existing topics of one member's subscription."""
        key = names, regex
        found = self._ids.get(key)
        if found is None:
            wanted = names | self.resolved.get(regex, frozenset())
            found = self._ids[key] = frozenset(topic.id for _, topic in self._existing(wanted))
        return found

    def partition_counts(self) -> dict[UUID, int]:
        return {topic.id: topic.partition_count for _, topic in self._existing(self.all_names())}

    def signature(self) -> int:
        """64 bits that differ when topics or their partitions do. (Hashes of numbers are the same in every process.)"""
        bits = 0
        for _, topic in self._existing(self.all_names()):
            bits ^= hash((topic.id.int, topic.partition_count))
        return bits

    def _existing(self, names: set[str] | frozenset[str]) -> Iterator[tuple[str, Topic]]:
        for name in names:
            topic = self._topics.topic(name)
            if topic is not None:
                yield name, topic
