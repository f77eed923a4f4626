"""Both who walk records: Python, and the native extension."""

from __future__ import annotations

import os
from types import ModuleType

import pytest

from gateway.records import key_table, record_check

Walker = ModuleType


def native_or_skip() -> ModuleType:
    """The native extension; without a compiler there is none to test, which CI does not take."""
    try:
        from gateway.records import native_walk
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip("the native extension is not installed")
    return native_walk


@pytest.fixture(scope="session", params=["python", "native"])
def walker(request: pytest.FixtureRequest) -> Walker:
    """The walker that checks records."""
    return record_check if request.param == "python" else native_or_skip()


@pytest.fixture(scope="session", params=["python", "native"])
def compacting(request: pytest.FixtureRequest) -> Walker:
    """The walker that finds the records to keep."""
    return key_table if request.param == "python" else native_or_skip()
