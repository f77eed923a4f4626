"""The S3 driver under faults of the server, the network or the configuration; with a real MinIO server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from minio import Minio
from minio.commonconfig import ENABLED, GOVERNANCE, Filter
from minio.lifecycleconfig import LifecycleConfig, NoncurrentVersionExpiration, Rule
from minio.objectlockconfig import DAYS, ObjectLockConfig
from minio.versioningconfig import VersioningConfig

from tests.tier2.fault_proxy import CutAnswer, FaultProxy, FlipABit, LoseAnswer, Refuse, Trickle, slow_down
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer
from tier2.retrying import RetryingStorage, RetryPolicy
from tier2.s3 import S3Storage
from tier2.s3_checksums import is_checked
from tier2.s3_settings import S3Settings
from tier2.storage import (
    AlreadyExists,
    BucketNotFound,
    Buffer,
    Denied,
    ErrorKind,
    Misconfigured,
    StorageError,
    TimedOut,
    Unavailable,
)

pytestmark = pytest.mark.slow

MIB = 1 << 20
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>"
REFUSED_ONE = b"<DeleteResult><Error><Key>k1</Key><Code>InternalError</Code></Error></DeleteResult>"
PATIENT = RetryPolicy(attempts_max=2000, first_backoff_s=0.05, backoff_max_s=0.1, deadline_s=90)
MUCH_LATER_S = 10.0  # than what takes a second; a machine with other work on it needs some


@asynccontextmanager
async def opened(settings: S3Settings) -> AsyncIterator[S3Storage]:
    storage = await S3Storage.open(settings)
    try:
        yield storage
    finally:
        await storage.close()


def open_error(settings: S3Settings) -> StorageError:
    """The error of an opening."""

    async def scenario() -> None:
        async with opened(settings):
            pass

    with pytest.raises(StorageError) as error:
        asyncio.run(scenario())
    return error.value


def bare(server: MinioServer) -> Minio:
    return Minio(f"127.0.0.1:{server.port}", ROOT_USER, ROOT_PASSWORD, secure=False)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Pieces:
    """Pseudo-random bytes, made while they are put."""

    def __init__(self, pieces: int, fail_after: int | None = None) -> None:
        self.pieces, self.fail_after = pieces, fail_after

    def open(self) -> Iterator[Buffer]:
        rng = random.Random(7)
        for number in range(self.pieces):
            if number == self.fail_after:
                raise RuntimeError("the source has failed")
            yield rng.randbytes(MIB)


# Configuration


def test_nobody_listens(bucket: str) -> None:
    """A wrong endpoint is named, with the reason."""
    port = unused_port()
    settings = S3Settings(endpoint=f"http://127.0.0.1:{port}", bucket=bucket, access_key="a", secret_key="b")

    error = open_error(settings)

    assert error.kind is ErrorKind.RETRY  # it may come up yet
    assert f"http://127.0.0.1:{port}" in str(error)
    assert "refused" in str(error)


def test_unknown_host(bucket: str) -> None:
    """A host that does not exist is said to be unknown."""
    settings = S3Settings(endpoint="http://nowhere.invalid:9000", bucket=bucket, access_key="a", secret_key="b")

    assert "nowhere.invalid:9000: the host's name is not known" in str(open_error(settings))


@pytest.mark.parametrize(
    ("changes", "hint"),
    [({"access_key": "nobody"}, "access key"), ({"secret_key": "wrong-4711"}, "secret key")],
)
def test_wrong_key(
    minio: MinioServer, bucket: str, changes: dict[str, str], hint: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong credentials are said to be wrong, which of both, and appear nowhere."""
    caplog.set_level(logging.DEBUG)
    settings = minio.settings(bucket, **changes)

    error = open_error(settings)

    assert isinstance(error, Denied)
    assert hint in str(error)
    for secret in (settings.access_key, settings.secret_key):
        assert secret not in str(error) + repr(error) + repr(settings) + caplog.text


def test_region_that_differs(minio: MinioServer, bucket: str) -> None:
    """A region that is not the server's is said to be wrong."""
    error = open_error(minio.settings(bucket, region="mars-north-1"))

    assert isinstance(error, Misconfigured)
    assert "region" in str(error)


def test_tls_where_there_is_none(minio: MinioServer, bucket: str) -> None:
    """https to a server that speaks plain http is said to be a matter of TLS."""
    error = open_error(minio.settings(bucket, endpoint=minio.endpoint.replace("http:", "https:")))

    assert isinstance(error, Misconfigured)
    assert "TLS" in str(error)


def test_tls(tmp_path: Path, bucket: str) -> None:
    """https works with a certificate that is vouched for, and is refused with one that is not."""
    server = MinioServer(tmp_path, tls=True)
    server.start()

    async def scenario() -> None:
        async with opened(server.settings(bucket, part_bytes=5 * MIB)) as storage:
            await storage.put("k", Pieces(12))
            assert await storage.get_range("k", 0, MIB) == next(Pieces(1).open())
            with pytest.raises(AlreadyExists):
                await storage.put_new("k", b"x")

    try:
        asyncio.run(scenario())
        stranger = open_error(server.settings(bucket, ca_file=None))
    finally:
        server.kill()
    assert isinstance(stranger, Misconfigured)
    assert "certificate" in str(stranger)


@pytest.mark.parametrize("name", ["a", "Has_Capitals", "x" * 64])
def test_impossible_bucket(minio: MinioServer, name: str) -> None:
    """A name that no bucket can have is refused by name."""
    with pytest.raises(Misconfigured, match=name):
        minio.settings(name)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://x", "http://", "http://host/path", "http://u:p@host"])
def test_impossible_endpoint(endpoint: str) -> None:
    """An endpoint is a URL of a host; other parts of it are not repeated."""
    with pytest.raises(Misconfigured) as error:
        S3Settings(endpoint=endpoint, bucket="b")
    assert "u:p" not in str(error.value)


def test_no_s3_there(bucket: str) -> None:
    """Another web server's answer is recognised as such."""
    with FaultProxy(0) as proxy:
        proxy.fail_next("GET", Refuse(200, b"<html>hello</html>", "text/html"))
        settings = S3Settings(endpoint=f"http://127.0.0.1:{proxy.port}", bucket=bucket, region="us-east-1")
        first = open_error(settings)
        proxy.fail_next("GET", Refuse(404, b"<html>nothing</html>", "text/html"))
        second = open_error(settings)

    assert isinstance(first, Misconfigured)
    assert "endpoint" in str(first)
    assert isinstance(second, Misconfigured)
    assert "endpoint" in str(second)


def test_bucket_is_created_and_missed(minio: MinioServer, bucket: str) -> None:
    """A missing bucket is created at open; one that is deleted later is distinguished from a missing object."""

    async def scenario() -> None:
        async with opened(minio.settings(bucket)) as storage:
            await storage.put("k", b"x")
            client = bare(minio)
            client.remove_object(bucket, "a/prefix/k")
            assert await storage.stat("k") is None
            client.remove_bucket(bucket)
            for call in (storage.get_range("k", 0, 1), storage.stat("k"), storage.put("k", b"y"), storage.delete("k")):
                with pytest.raises(BucketNotFound, match=bucket):
                    await call

    asyncio.run(scenario())


def test_prefix_keeps_neighbours_apart(minio: MinioServer, bucket: str) -> None:
    """Objects lie below the prefix; those beside it are not seen."""

    async def scenario() -> None:
        async with opened(minio.settings(bucket)) as one, opened(minio.settings(bucket, prefix="a/prefix-2")) as two:
            await one.put("k", b"1")
            await two.put("k", b"2")
            assert [info.key async for info in one.list("")] == ["k"]
            assert await two.get_range("k", 0, 1) == b"2"
        names = [found.object_name for found in bare(minio).list_objects(bucket, recursive=True)]
        assert names == ["a/prefix-2/k", "a/prefix/k"]

    asyncio.run(scenario())


# Faults of server and network


@pytest.mark.parametrize(
    "fault",
    [
        slow_down(),
        Refuse(503, b"<Error><Code>XMinioServerNotInitialized</Code></Error>"),
        Refuse(429, b"too many", "text/plain"),
        Refuse(503, b"<html>proxy</html>", "text/html"),
        Refuse(502),
        Refuse(500, b"<Error><Co"),
        LoseAnswer(),
    ],
)
def test_normal_life(minio: MinioServer, bucket: str, fault: Refuse | LoseAnswer) -> None:
    """Overload, start-up and lost connections are RETRY, and are sent once only by the driver itself."""

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            settings = minio.settings(bucket, endpoint=f"http://127.0.0.1:{proxy.port}", region="us-east-1")
            async with opened(settings) as storage:
                await storage.put("k", b"0123456789")
                for method, call in (
                    ("GET", lambda: storage.get_range("k", 0, 10)),
                    ("PUT", lambda: storage.put("k", b"0123456789")),
                    ("POST", lambda: storage.delete_many(["l", "m"])),
                ):
                    before = len(proxy.requests)
                    proxy.fail_next(method, fault)
                    with pytest.raises(Unavailable):
                        await call()
                    assert len(proxy.requests) == before + 1
                assert await storage.get_range("k", 0, 10) == b"0123456789"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(501, b"<Error><Code>NotImplemented</Code></Error>"),
        Refuse(405, b"<Error><Code>MethodNotAllowed</Code></Error>"),
        None,
    ],
    ids=["not implemented", "no such method", "one is refused"],
)
def test_many_are_deleted_one_by_one_where_not_at_once(minio: MinioServer, bucket: str, fault: Refuse | None) -> None:
    """By a server that knows no such request, which is asked once; and those that it has refused in it."""
    fault = fault or Refuse(200, REFUSED_ONE)

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            settings = minio.settings(bucket, endpoint=f"http://127.0.0.1:{proxy.port}", region="us-east-1")
            async with opened(settings) as storage:
                for key in ("k1", "k2", "k3"):
                    await storage.put(key, b"x")
                proxy.fail_next("POST", fault)
                await storage.delete_many(["k1", "k2"])
                await storage.delete_many(["k1", "k2"])
                left = [info.key async for info in storage.list("k")]
                many = [line for line in proxy.requests if line.startswith("POST")]
        if fault.status == 200:
            assert (left, len(many)) == (["k3"], 2)
        else:
            assert (left, len(many)) == (["k3"], 1)

    asyncio.run(scenario())


def test_answer_cut_in_mid_body(minio: MinioServer, bucket: str) -> None:
    """A body that ends early is never taken for the range; the retrying store gets it whole."""
    data = random.Random(3).randbytes(MIB)

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            settings = minio.settings(bucket, endpoint=f"http://127.0.0.1:{proxy.port}", region="us-east-1")
            async with opened(settings) as storage:
                await storage.put("k", data)
                proxy.fail_next("GET", CutAnswer(0), CutAnswer(1), CutAnswer(MIB - 1))
                for _ in range(3):
                    with pytest.raises(Unavailable):
                        await storage.get_range("k", 0, MIB)
                proxy.fail_next("GET", CutAnswer(1000), slow_down(), LoseAnswer())
                retrying = RetryingStorage(storage, PATIENT, random.Random(1))
                assert await retrying.get_range("k", 0, MIB) == data
                assert retrying.counters.retries == 3

    asyncio.run(scenario())


def test_endpoint_that_ignores_ranges(minio: MinioServer, bucket: str) -> None:
    """A whole object in place of the requested part is not read into memory, even of the right length."""

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            settings = minio.settings(bucket, endpoint=f"http://127.0.0.1:{proxy.port}", region="us-east-1")
            async with opened(settings) as storage:
                proxy.fail_next("GET", Refuse(200, b"0123456789", "application/octet-stream"))
                with pytest.raises(Misconfigured, match="all of it"):
                    await storage.get_range("k", 0, 10)

    asyncio.run(scenario())


def test_trickling_answer(minio: MinioServer, bucket: str) -> None:
    """An answer that comes byte by byte ends at the deadline, and gives its thread back at once."""

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            settings = minio.settings(
                bucket, endpoint=f"http://127.0.0.1:{proxy.port}", region="us-east-1", reads=1, read_timeout_s=0.5
            )
            async with opened(settings) as storage:
                await storage.put("k", b"x" * 1000)
                proxy.fail_next("GET", Trickle(0.05))
                with pytest.raises(TimedOut):
                    await storage.get_range("k", 0, 1000)
                assert await storage.get_range("k", 0, 1000) == b"x" * 1000

    asyncio.run(scenario())


def test_lost_answers_of_puts_are_settled(minio: MinioServer, bucket: str) -> None:
    """A put that happened without an answer is found by its token; a stranger's object is not taken for it."""

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            settings = minio.settings(bucket, endpoint=f"http://127.0.0.1:{proxy.port}", region="us-east-1")
            async with opened(settings) as storage:
                retrying = RetryingStorage(storage, PATIENT, random.Random(2))
                proxy.fail_next("PUT", LoseAnswer())
                await retrying.put("chunk", b"data")
                proxy.fail_next("PUT", LoseAnswer())
                await retrying.put_new("fence", b"mine")
                assert retrying.counters.settled == 2
                assert sum("/chunk " in line and line.startswith("PUT") for line in proxy.requests) == 1
                assert sum("/fence " in line and line.startswith("PUT") for line in proxy.requests) == 2

                await storage.put_new("taken", b"theirs")
                proxy.fail_next("PUT", slow_down())
                with pytest.raises(AlreadyExists):
                    await retrying.put_new("taken", b"mine")
                assert await storage.get_range("taken", 0, 6) == b"theirs"

    asyncio.run(scenario())


def test_killed_and_restarted(own_minio: MinioServer, bucket: str) -> None:
    """While the server is away calls end with RETRY; a retrying put waits, and goes through when it is back."""

    async def scenario() -> None:
        async with opened(own_minio.settings(bucket)) as storage:
            await storage.put("before", b"x")
            own_minio.kill()
            with pytest.raises(Unavailable):
                await storage.get_range("before", 0, 1)
            retrying = RetryingStorage(storage, PATIENT, random.Random(4))
            put = asyncio.create_task(retrying.put("during", Pieces(20)))
            await asyncio.to_thread(own_minio.start)
            stat = await put
            assert stat.size == 20 * MIB
            assert retrying.counters.retries > 0
            assert await storage.get_range("before", 0, 1) == b"x"
            assert await storage.get_range("during", 0, MIB) == next(Pieces(1).open())

    asyncio.run(scenario())


def test_paused_server(own_minio: MinioServer, bucket: str) -> None:
    """A server that stands still holds a caller no longer than the deadline; hung reads leave writes their threads."""

    async def scenario() -> None:
        settings = own_minio.settings(bucket, read_timeout_s=0.3, write_timeout_s=0.6, io_timeout_s=1.0, reads=2)
        async with opened(settings) as storage:
            await storage.put("k", b"x")
            own_minio.pause()
            begin = time.monotonic()
            reads = [storage.get_range("k", 0, 1) for _ in range(8)]
            results = await asyncio.gather(*reads, storage.put("w", Pieces(12)), return_exceptions=True)
            assert [type(result) for result in results] == [TimedOut] * 9
            assert time.monotonic() - begin < MUCH_LATER_S
            own_minio.resume()
            retrying = RetryingStorage(storage, PATIENT, random.Random(5))
            await retrying.put("w", b"y")
            assert await retrying.get_range("k", 0, 1) == b"x"

    asyncio.run(scenario())


# Uploads in parts


def test_uploads_in_bounded_memory(minio: MinioServer, bucket: str) -> None:
    """A large body is never in memory as a whole."""

    async def scenario() -> None:
        async with opened(minio.settings(bucket, part_bytes=5 * MIB, parts_at_once=2)) as storage:
            tracemalloc.start()
            try:
                stat = await storage.put("large", Pieces(96))
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert stat.size == 96 * MIB
            assert peak < (2 + 3) * 5 * MIB + 2 * MIB

    asyncio.run(scenario())


def unfinished(server: MinioServer, bucket: str) -> int:
    return len(bare(server)._list_multipart_uploads(bucket).uploads)


def test_failed_upload_is_aborted(minio: MinioServer, bucket: str) -> None:
    """When a body or a part fails, no part of it stays in the bucket."""

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            settings = minio.settings(
                bucket, endpoint=f"http://127.0.0.1:{proxy.port}", region="us-east-1", part_bytes=5 * MIB
            )
            async with opened(settings) as storage:
                with pytest.raises(RuntimeError):
                    await storage.put("k", Pieces(20, fail_after=14))
                proxy.fail_next("PUT", slow_down())
                with pytest.raises(Unavailable):
                    await storage.put("k", Pieces(20))
                assert unfinished(minio, bucket) == 0
                assert await storage.stat("k") is None

    asyncio.run(scenario())


def test_parts_are_checked(minio: MinioServer, bucket: str) -> None:
    """The server checks a CRC of each part, so nobody hashes it; a part that changed on its way is put again."""

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            settings = minio.settings(bucket, endpoint=f"http://127.0.0.1:{proxy.port}", part_bytes=5 * MIB)
            async with opened(settings) as storage:
                proxy.fail_next("PUT", FlipABit())
                with pytest.raises(Unavailable, match="ContentChecksumMismatch"):
                    await storage.put("k", Pieces(12))
                assert unfinished(minio, bucket) == 0
                proxy.heads.clear()
                await RetryingStorage(storage, PATIENT, random.Random(1)).put("k", Pieces(12))

                whole = b"".join(map(bytes, Pieces(12).open()))
                assert await storage.get_range("k", 0, len(whole)) == whole
                parts = [head.lower() for head in proxy.heads if head.startswith("PUT")]
                assert len(parts) == 3
                assert all("\r\nx-amz-content-sha256: unsigned-payload\r\n" in head for head in parts)
                assert all("\r\nx-amz-checksum-crc32c: " in head for head in parts)

    asyncio.run(scenario())


def test_server_that_knows_no_checksums(minio: MinioServer, bucket: str) -> None:
    """If the server refuses to check a CRC, or says nothing of it, the signature covers a part as it always did."""
    refusal = Refuse(501, b"<Error><Code>NotImplemented</Code><Message>x-amz-checksum-algorithm</Message></Error>")

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            settings = minio.settings(bucket, endpoint=f"http://127.0.0.1:{proxy.port}", part_bytes=5 * MIB)
            async with opened(settings) as storage:
                proxy.fail_next("POST", refusal)
                for key in ("k", "l"):
                    assert (await storage.put(key, Pieces(12))).size == 12 * MIB

                asked = [head for head in proxy.heads if "x-amz-checksum-algorithm" in head.lower()]
                assert len(asked) == 1
                assert "unsigned" not in "".join(proxy.heads).lower()

    asyncio.run(scenario())
    assert not is_checked({"etag": "x"})


def test_conditional_puts_are_checked(minio: MinioServer, bucket: str) -> None:
    """Once the server has told a CRC that it checked, nobody hashes them; one that changed on its way is refused."""

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            async with opened(minio.settings(bucket, endpoint=f"http://127.0.0.1:{proxy.port}")) as storage:
                proxy.fail_next("PUT", FlipABit())
                for key in ("a", "b"):
                    with contextlib.suppress(Unavailable):
                        await storage.put_new(key, b"some bytes" * 1000)
                proxy.heads.clear()
                proxy.fail_next("PUT", FlipABit())
                with pytest.raises(Unavailable, match="ContentChecksumMismatch"):
                    await storage.put_new("c", b"some bytes" * 1000)
                await storage.put_new("c", b"some bytes" * 1000)
                with pytest.raises(AlreadyExists):
                    await storage.put_new("c", b"others")
                assert [await storage.stat("a") is None, await storage.stat("b") is None] == [True, False]
                puts = [head.lower() for head in proxy.heads if head.startswith("PUT")]
                assert all("\r\nx-amz-content-sha256: unsigned-payload\r\n" in head for head in puts)
                assert all("\r\nx-amz-checksum-crc32c: " in head for head in puts)
                assert not any("unhashed" in head for head in puts)

    asyncio.run(scenario())


def test_conditional_puts_without_checksums(minio: MinioServer, bucket: str) -> None:
    """If the server refuses to check a CRC, the signature covers the bytes as it always did."""
    refusal = Refuse(501, b"<Error><Code>NotImplemented</Code><Message>x-amz-checksum-crc32c</Message></Error>")

    async def scenario() -> None:
        with FaultProxy(minio.port) as proxy:
            async with opened(minio.settings(bucket, endpoint=f"http://127.0.0.1:{proxy.port}")) as storage:
                proxy.heads.clear()
                proxy.fail_next("PUT", refusal)
                for key in ("a", "b"):
                    await storage.put_new(key, b"some bytes")
                puts = [head.lower() for head in proxy.heads if head.startswith("PUT")]
                assert ["x-amz-checksum-crc32c" in head for head in puts] == [True, False, False]
                assert "unsigned" not in "".join(puts)

    asyncio.run(scenario())


def test_sweeps_old_uploads(minio: MinioServer, bucket: str) -> None:
    """An upload that could not be aborted is, later; young ones and those beside the prefix are left alone."""

    async def scenario() -> None:
        async with opened(minio.settings(bucket)) as storage:
            client = bare(minio)
            client._create_multipart_upload(bucket, "a/prefix/left", {})
            client._create_multipart_upload(bucket, "elsewhere", {})
            assert unfinished(minio, bucket) == 2

            assert await storage.sweep_uploads(older_than_s=3600) == 0
            assert await storage.sweep_uploads(older_than_s=0) == 1
            assert unfinished(minio, bucket) == 1

    asyncio.run(scenario())


def test_close_lets_go_of_hung_calls(own_minio: MinioServer, bucket: str) -> None:
    """Closing does not wait for a server that stands still, and further calls are refused."""

    threads_before = threading.active_count()

    async def scenario() -> None:
        storage = await S3Storage.open(own_minio.settings(bucket, io_timeout_s=2 * MUCH_LATER_S))
        await storage.put("k", b"x")
        own_minio.pause()
        read = asyncio.create_task(storage.get_range("k", 0, 1))
        await asyncio.sleep(0)
        begin = time.monotonic()
        await storage.close()
        assert time.monotonic() - begin < MUCH_LATER_S
        with pytest.raises(Unavailable):
            await storage.get_range("k", 0, 1)
        with pytest.raises(Unavailable):
            await read
        own_minio.resume()

    asyncio.run(scenario())
    deadline = time.monotonic() + MUCH_LATER_S
    while threading.active_count() > threads_before:
        assert time.monotonic() < deadline, "the hung call keeps its thread"
        time.sleep(0.01)


# What the bucket keeps


def remarks(server: MinioServer, bucket: str, **changes: object) -> list[str]:
    async def scenario() -> list[str]:
        async with opened(server.settings(bucket, **changes)) as storage:
            return await storage.remarks()

    return asyncio.run(scenario())


def test_a_bucket_that_keeps_versions(minio: MinioServer, bucket: str) -> None:
    """The driver reports that deleted objects stay, until a rule for noncurrent versions covers the prefix."""
    client = bare(minio)
    client.make_bucket(bucket)
    assert remarks(minio, bucket) == []
    client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    (said,) = remarks(minio, bucket)
    assert "'a/prefix/' (NoncurrentVersionExpiration)" in said
    for prefix, there in (("another/", 1), ("a/", 0)):
        rule = Rule(
            ENABLED,
            rule_filter=Filter(prefix=prefix),
            noncurrent_version_expiration=NoncurrentVersionExpiration(noncurrent_days=1),
        )
        client.set_bucket_lifecycle(bucket, LifecycleConfig([rule]))
        assert len(remarks(minio, bucket)) == there


def test_a_bucket_that_is_locked(minio: MinioServer, bucket: str) -> None:
    """A default retention is named, with how long it lasts."""
    client = bare(minio)
    client.make_bucket(bucket, object_lock=True)
    client.set_object_lock_config(bucket, ObjectLockConfig(GOVERNANCE, 3, DAYS))
    locked, versions = remarks(minio, bucket)

    assert "for 3 days (governance)" in locked
    assert "keeps old versions" in versions


def test_who_may_not_ask(minio: MinioServer, bucket: str) -> None:
    """Nothing is said of a bucket whose settings may not be read."""
    client = bare(minio)
    client.make_bucket(bucket)
    client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    with FaultProxy(minio.port) as proxy:
        proxy.chooses = lambda line: Refuse(403, DENIED) if "versioning" in line or "object-lock" in line else None
        assert remarks(minio, bucket, endpoint=f"http://127.0.0.1:{proxy.port}") == []
