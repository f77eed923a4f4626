"""Sizes that follow the machine: its memory, or the least that a control group around this process allows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config.machine import CACHE_BYTES_MIN, default_cache_bytes, usable_memory
from gateway.config.units import GIB, MIB

PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def machine(root: Path, groups: str, limits: dict[str, str]) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for path, limit in limits.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(limit + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "536870912", "a/memory.max": "max"}, 512 * MIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "300000000"}, 300_000_000),
        ("0::/../outside\n", {"memory.max": "268435456"}, 256 * MIB),  # a container's own group is its topmost
        ("4:memory:/a\n1:cpu:/b\n", {"memory/a/memory.limit_in_bytes": "1000000000"}, 1_000_000_000),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, PHYSICAL),  # version 1's "none"
        ("0::/\n", {}, PHYSICAL),
        ("not what Linux writes", {}, PHYSICAL),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, groups: str, limits: dict[str, str], expected: int) -> None:
    assert usable_memory(machine(tmp_path, groups, limits)) == expected


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert usable_memory(tmp_path) == PHYSICAL


def test_small_machines_have_a_small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter, but no less than 64 MiB."""
    for memory, expected in ((8 * GIB, 2 * GIB), (512 * MIB, 128 * MIB), (100 * MIB, CACHE_BYTES_MIN)):
        monkeypatch.setattr("gateway.config.machine.usable_memory", lambda memory=memory: memory)
        assert default_cache_bytes() == expected
