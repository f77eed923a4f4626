"""One broker per module: its tests use topics of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.apis.harness import Admin, admin_of


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    with admin_of(tmp_path_factory.mktemp("broker")) as admin:
        yield admin
