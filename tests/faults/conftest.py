"""Fixtures of the fault tests."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.grouping import Grouped, grouped, module_of

if TYPE_CHECKING:
    from xdist.remote import Producer


def group_of(nodeid: str) -> str:
    """With `--dist loadgroup` a module stays together, and only one cluster of nodes lives at a time: two of them take
    the processor from each other, which looks like a fault."""
    module = module_of(nodeid)
    return "cluster" if module.startswith("test_cluster") else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Grouped | None:
    return grouped(config, log, group_of)


@pytest.fixture
def shadow() -> Iterator[Path]:
    """The place of the fault layer's copies: in memory, so that copying does not slow the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory:
        yield Path(directory)
