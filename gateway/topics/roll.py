"""The topics that have come and not gone: how many partitions they have, what names they have taken, who hears of them.

A topic comes and goes by this process's own change and by what it hears of others', so each is said more than once.

Keeps: hooks hear once that a topic came, grew or went; an error in one keeps that from no other. Partitions and names
that are counted are those of the topics that have come and not gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TypeVar
from uuid import UUID

from core.cluster.registry import common_form
from core.streams.live import Stream
from gateway.topics.former_names import FormerNames

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
DeletionHook = Callable[[Stream], Iterable[asyncio.Task[None]] | None]
"""Hears of a deleted topic; may return what ends when something that the topic has left behind is gone."""


class Roll:
    """See the module."""

    def __init__(self) -> None:
        self.partition_count = 0
        self.former_names = FormerNames()
        self._known: dict[UUID, tuple[Stream, int]] = {}  # with the partitions that are counted
        self._alike: dict[str, tuple[str, ...]] = {}  # names that collide, by their common form
        self._deletion_hooks: list[DeletionHook] = []
        self._change_hooks: list[Callable[[Stream], None]] = []
        self._left_behind: set[asyncio.Task[None]] = set()  # of deleted topics

    def __repr__(self) -> str:
        return f"<Roll of {len(self._known)} topics, {self.partition_count} partitions>"

    def on_deletion(self, hook: DeletionHook) -> None:
        """Call `hook` on the loop after a topic is deleted. (Fetches learn of it from their slots.) What it returns is
        waited for before the deletion is answered, and another topic of that name may come."""
        self._deletion_hooks.append(hook)

    def on_change(self, hook: Callable[[Stream], None]) -> None:
        """Call `hook` on the loop after a topic is created, given more partitions, or deleted."""
        self._change_hooks.append(hook)

    def came(self, stream: Stream) -> None:
        """A topic was created or has more partitions; said again, or when it is gone again, it changes nothing."""
        before = self._known.get(stream.uuid)
        counted = 0 if before is None else before[1]
        if stream.deleted or counted == stream.slot_count:
            return
        if before is None:
            self._note_name(stream.name)
        self._known[stream.uuid] = stream, stream.slot_count
        self.partition_count += stream.slot_count - counted
        _tell(self._change_hooks, stream)

    def went(self, uuid: UUID) -> None:
        """A topic was deleted; said again, it changes nothing."""
        found = self._known.pop(uuid, None)
        if found is None:
            return
        stream, counted = found
        self._forget_name(stream.name)
        self.former_names.note(uuid, stream.name)
        self.partition_count -= counted
        for left in [left for some in _tell(self._deletion_hooks, stream) for left in some or ()]:
            self._left_behind.add(left)
            left.add_done_callback(self._left_behind.discard)
        _tell(self._change_hooks, stream)

    async def nothing_left(self) -> None:
        """Wait for all that topics which are gone by now have left behind."""
        if self._left_behind:
            await asyncio.wait(set(self._left_behind))

    # Names

    def alike(self, name: str) -> str | None:
        """A topic's name that a new one of this name would collide with, or None."""
        found = self._alike.get(common_form(name))
        return found[0] if found else None

    def _note_name(self, name: str) -> None:
        look = common_form(name)
        self._alike[look] = (*self._alike.get(look, ()), name)

    def _forget_name(self, name: str) -> None:
        look = common_form(name)
        left = list(self._alike[look])
        left.remove(name)
        if left:
            self._alike[look] = tuple(left)
        else:
            del self._alike[look]


def _tell(hooks: Iterable[Callable[[Stream], _T]], stream: Stream) -> list[_T]:
    """Have all hooks hear; returns what they return."""
    answers: list[_T] = []
    for hook in hooks:
        try:
            answers.append(hook(stream))
        except Exception:  # the topic is known by now, so nobody else would ever hear of it
            logger.exception("a topic has changed, and telling so failed", extra={"topic": stream.name})
    return answers
