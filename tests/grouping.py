"""Groups of tests that one worker of xdist runs, one after the other, with `--dist loadgroup`.

A group is told from a test's name, by the process that distributes. (xdist's own marks have no effect with pytest from
9.1 on: they are written into a name that is computed anew.)
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling


class Grouped(LoadScopeScheduling):
    """Gives each group to one worker."""

    def __init__(self, config: pytest.Config, log: Producer, group_of: Callable[[str], str]) -> None:
        super().__init__(config, log)
        self._group_of = group_of

    def _split_scope(self, nodeid: str) -> str:
        return self._group_of(nodeid)


def grouped(config: pytest.Config, log: Producer, group_of: Callable[[str], str]) -> Grouped | None:
    """The scheduler, if groups are asked for."""
    return Grouped(config, log, group_of) if config.getvalue("dist") == "loadgroup" else None


def module_of(nodeid: str) -> str:
    """The name of a test's module."""
    return nodeid.partition("::")[0].rpartition("/")[2].removesuffix(".py")
