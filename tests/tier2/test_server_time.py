"""A machine whose clock is off by more than an S3 server allows stores and reads all the same."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import minio.api
import pytest

import tier2.minio
from tests.tier2.minio_server import MinioServer
from tier2.retrying import RetryingStorage, RetryPolicy
from tier2.s3 import S3Storage
from tier2.server_time import ServerTime
from tier2.storage import Denied

HOUR = timedelta(hours=1)
NOON = datetime(2030, 5, 1, 12, tzinfo=UTC)


class Clock:
    """The wall clock of this machine, as the S3 client sees it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.off = timedelta()
        clock = self

        class Shown(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return datetime.now(UTC) + clock.off

        patch.setattr(minio.api.time, "utcnow", lambda: datetime.now(UTC) + self.off)
        patch.setattr(tier2.minio, "datetime", Shown)


@pytest.mark.parametrize("off", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_clocks_that_jump(minio: MinioServer, bucket: str, monkeypatch: pytest.MonkeyPatch, off: timedelta) -> None:
    """At the first request, later on, and back again; wrong keys are still said to be wrong."""
    clock = Clock(monkeypatch)

    async def scenario() -> None:
        clock.off = off
        once_more = RetryPolicy(attempts_max=2, first_backoff_s=0.0)
        storage = RetryingStorage(await S3Storage.open(minio.settings(bucket)), once_more, random.Random(1))
        try:
            for turn, shown in enumerate((off, timedelta(), -off, timedelta())):
                clock.off = shown
                await storage.put_new(f"k{turn}", b"%d" % turn)
                assert await storage.get_range(f"k{turn}", 0, 1) == b"%d" % turn
        finally:
            await storage.close()
        clock.off = off
        with pytest.raises(Denied, match="secret key"):
            await S3Storage.open(minio.settings(bucket, secret_key="another-one"))

    asyncio.run(scenario())


def test_only_a_refusal_with_another_time_is_believed() -> None:
    time = ServerTime()
    unbelieved = (format_datetime(NOON + timedelta(minutes=4)), format_datetime(NOON.replace(year=9999)))
    for told in (None, "", "yesterday", "Wed, 01 May 2030 12:00:00 +9999999999999999", *unbelieved):
        assert not time.differs(told, NOON)
        assert time.of(NOON) == NOON
    assert time.differs(format_datetime(NOON + HOUR, usegmt=True), NOON)
    assert time.of(NOON) == NOON + HOUR
    assert not time.differs(format_datetime(NOON + HOUR, usegmt=True), NOON)
    assert time.differs(format_datetime(NOON), NOON)
    assert time.of(NOON) == NOON


def test_requests_at_once_after_a_jump(minio: MinioServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several are refused, and the first refusal corrects the time for all of them: each is sent again."""
    clock = Clock(monkeypatch)

    async def scenario() -> None:
        once_more = RetryPolicy(attempts_max=2, first_backoff_s=0.0)
        storage = RetryingStorage(await S3Storage.open(minio.settings(bucket)), once_more, random.Random(1))
        try:
            clock.off = HOUR
            await asyncio.gather(*(storage.put(f"k{number}", b"x") for number in range(8)))
        finally:
            await storage.close()

    asyncio.run(scenario())
