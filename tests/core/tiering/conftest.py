"""The background looks twenty times as often as in production, so that tests need not wait for it."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.tiering.writing.storage_writer.TICK_S", 0.05)
