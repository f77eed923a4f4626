"""The memory that this process may use: the machine's, or less where a control group or a limit of the process says so.

Sizes that follow the machine are made from it, so that one default serves a small container and a large server.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.config.units import MIB

CACHE_SHARE: Final = 4
"""The log's cache has one part in this many of the memory, unless the configuration says otherwise."""
CACHE_BYTES_MIN: Final = 64 * MIB


def default_cache_bytes() -> int:
    """The bound of the log's cache on this machine, bytes."""
    return max(CACHE_BYTES_MIN, usable_memory() // CACHE_SHARE)


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes. `root`: where `/proc` and `/sys` lie."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        limits.append(address_space)
    limits += _limits_of_groups(root)
    return min(limits)


def _limits_of_groups(root: Path) -> Iterator[int]:
    """The limits of the control groups that this process is in, and of those that hold them. Both versions of Linux's
    control groups; a container often sees its own group as the topmost one, so that is asked, too."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        inner = top / group.strip("/")
        for directory in (inner, *inner.parents):
            if not directory.is_relative_to(top):
                break
            try:
                limit = (directory / name).read_text().strip()
            except OSError:
                continue
            if limit.isdigit():  # not "max"
                yield int(limit)
