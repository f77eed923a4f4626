"""Feature levels of a cluster: what its nodes may write, raised by a person once every node can read it.

Nodes of two releases serve one cluster while it is upgraded, and a node may be taken back to the older one. So whatever
an older release could not read is written only from a level on, which `penstock cluster finalize` raises; the cluster's
key in etcd has it. Each node tells the highest level that it knows.

| level | from then on |
|---|---|
| 1 | claims, links, streams and settings as in format 1 |
| 2 | moves are asked for by wishes, in place of nodes that give away by themselves |
| 3 | slots move between containers, whose leader epochs rise above those of their claims |
| 4 | rows of tables that are about a stream have its id, where they had its name alone |

**Invariants**

- A level is never lowered, and none is ever given another meaning.
- No node lives in a cluster whose level it does not know: it is refused when it joins, and the level is not raised
  while such a node lives.
- This is the only place where code asks whether it may write something new.
"""

from __future__ import annotations

import enum
from typing import Final

FIRST: Final = 1
"""The level of a cluster, or of a node, that tells none."""


class Feature(enum.IntEnum):
    """What is written from a level on. The values are the levels."""

    WISHES = 2
    SLOT_MOVES = 3
    STREAM_IDS = 4


NEWEST: Final = max(int(feature) for feature in Feature)
"""The highest level that this release knows."""


def allows(level: int, feature: Feature) -> bool:
    """Whether a cluster at this level may be given records of a feature."""
    return level >= feature
