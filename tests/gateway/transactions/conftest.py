"""One broker per module: its tests use topics and transactional ids of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.apis.harness import Admin, admin_of, new_name
from tests.gateway.transactions.client import Producer


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with admin_of(tmp_path_factory.mktemp("broker")) as admin:
        yield admin


@pytest.fixture
def topic(admin: Admin) -> str:
    return admin.create(3)


@pytest.fixture
def producer(admin: Admin) -> Producer:
    return Producer(admin, new_name())
