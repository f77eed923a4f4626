"""Shared fixtures of the gateway's tests: a broker for each module, whose tests use their own topics, and the log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from tests.gateway.apis.harness import Admin, admin_of


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with admin_of(tmp_path_factory.mktemp("broker")) as admin:
        yield admin


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The gateway's log so far."""
    caplog.set_level(logging.INFO, "gateway")
    return lambda: [record.getMessage() for record in caplog.records]
