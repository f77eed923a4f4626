"""One gateway for the tools' tests, whose topics are their own, and the tools as processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.cli.kafka.tools import Tools
from tests.gateway.forking import serving


@pytest.fixture(scope="package")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = ("group.initial.rebalance.delay.ms=0", "group.streams.initial.rebalance.delay.ms=0")
    given = [part for one in (*settings, "log.file.bytes=4194304") for part in ("--set", one)]
    with serving(tmp_path_factory.mktemp("gateway"), *given) as running:
        yield str(running.ready()["kafka"][0])


@pytest.fixture
def tools(address: str, tmp_path: Path) -> Tools:
    return Tools(address, tmp_path)
