"""The server-side assignors, by the names of `group.consumer.assignors`.

Keeps: an assignor is a pure function of its group: it may run in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.groups.consumer.assignors import ranges, uniform
from gateway.groups.consumer.assignors.spec import GroupSpec
from gateway.groups.consumer.messages import Partitions

ASSIGNORS: Final[Mapping[str, Callable[[GroupSpec], dict[str, Partitions]]]] = {
    "uniform": uniform.assign,
    "range": ranges.assign,
}
