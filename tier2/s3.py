"""The driver for MinIO and every other store that speaks S3.

Invariants: a put holds at most a few parts of `part_bytes` in memory, whatever the object's size. A put that fails
aborts its upload; if it cannot, because the server does not answer, `sweep_uploads` finds it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from typing import Final, Self, TypeVar

from tier2.minio import S3Client
from tier2.parts import OpenUpload, Part, SentPart, cut
from tier2.pool import BlockingPool, Deadline
from tier2.s3_settings import S3Settings
from tier2.storage import (
    Buffer,
    Came,
    Data,
    Misconfigured,
    ObjectInfo,
    ObjectStat,
    check_deletes,
    check_key,
    check_range,
    open_data,
)

T = TypeVar("T")

PAGE_KEYS: Final = 1000
PARTS_MAX: Final = 10_000


class S3Storage:
    """Objects in a bucket, below a prefix."""

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._client = S3Client(settings)
        self._prefix = settings.prefix.strip("/") + "/" if settings.prefix.strip("/") else ""
        self._reads = BlockingPool("tier2-read", settings.reads)
        self._writes = BlockingPool("tier2-write", settings.writes)
        self._parts = ThreadPoolExecutor(settings.writes * settings.parts_at_once, thread_name_prefix="tier2-part")

    def __repr__(self) -> str:
        return f"<S3Storage {self._client.place}/{self._prefix}>"

    @classmethod
    async def open(cls, settings: S3Settings) -> Self:
        """Check endpoint, credentials and bucket, and create the bucket if it is missing and may be.

        Raises Unavailable, Denied, Misconfigured: each names the fault.
        """
        storage = cls(settings)
        try:
            await storage._read("check of the bucket", "", lambda _: storage._client.ensure_bucket(storage._prefix))
        except BaseException:
            await storage.close()
            raise
        return storage

    async def remarks(self) -> list[str]:
        """Remarks for an operator about a bucket that keeps deleted objects. Raises StorageError."""
        return await self._read("look at the bucket", "", lambda _: self._client.remarks(self._prefix))

    async def put(self, key: str, data: Data, *, token: str = "") -> ObjectStat:
        check_key(key)
        return await self._write(f"put of {key!r}", key, lambda deadline: self._put(key, data, token, deadline))

    async def put_new(self, key: str, data: Buffer, *, token: str = "") -> ObjectStat:
        check_key(key)
        name = self._prefix + key
        return await self._write(f"put of {key!r}", key, lambda _: self._client.put_if_absent(name, data, token))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        check_key(key)
        check_range(start, length)
        name = self._prefix + key
        return await self._read(
            f"read of {key!r}", key, lambda deadline: self._client.get_range(name, key, start, length, deadline)
        )

    async def get_pieces(self, key: str, start: int, length: int, piece_bytes: int, came: Came) -> None:
        check_key(key)
        check_range(start, length)
        name = self._prefix + key
        await self._read(
            f"read of {key!r}",
            key,
            lambda deadline: self._client.get_pieces(name, key, start, length, piece_bytes, came, deadline),
        )

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        found = self._client.list(self._prefix + prefix, self._prefix + after if after else "")
        while True:
            page = await self._read(f"list of {prefix!r}", prefix, lambda _: list(islice(found, PAGE_KEYS)))
            for name, size, modified_ms in page:
                yield ObjectInfo(key=name.removeprefix(self._prefix), size=size, modified_ms=modified_ms)
            if len(page) < PAGE_KEYS:
                return

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._write(f"delete of {key!r}", key, lambda _: self._client.delete(self._prefix + key))

    async def delete_many(self, keys: Sequence[str]) -> None:
        check_deletes(keys)
        names = [self._prefix + key for key in keys]
        what = f"delete of {len(keys)} objects from {keys[0]!r} on"
        await self._write(what, keys[0], lambda deadline: self._client.delete_many(names, deadline))

    async def stat(self, key: str) -> ObjectStat | None:
        check_key(key)
        return await self._read(f"stat of {key!r}", key, lambda _: self._client.stat(self._prefix + key))

    async def sweep_uploads(self, older_than_s: float) -> int:
        before = time.time() - older_than_s
        return await self._write(
            "sweep of unfinished uploads",
            "",
            lambda deadline: self._client.sweep_uploads(self._prefix, before, deadline),
        )

    async def close(self) -> None:
        self._reads.close()
        self._writes.close()
        self._parts.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    # --- Threads and errors -------------------------------------------------------------------

    async def _read(self, what: str, key: str, call: Callable[[Deadline], T]) -> T:
        translated = self._client.translated(key, call)
        return await self._reads.run(f"{self._client.place}: {what}", self._settings.read_timeout_s, translated)

    async def _write(self, what: str, key: str, call: Callable[[Deadline], T]) -> T:
        translated = self._client.translated(key, call)
        return await self._writes.run(f"{self._client.place}: {what}", self._settings.write_timeout_s, translated)

    # --- Puts ---------------------------------------------------------------------------------

    def _put(self, key: str, data: Data, token: str, deadline: Deadline) -> ObjectStat:
        name = self._prefix + key
        parts = cut(open_data(data), self._settings.part_bytes)
        first = next(parts)
        deadline.check()
        if len(first) < self._settings.part_bytes:
            return self._client.put(name, bytes(first), token)
        upload = self._client.begin_upload(name, token)
        sending: list[Future[SentPart]] = []
        try:
            parts = chain([first], parts)
            del first
            for number, part in enumerate(parts, 1):
                self._make_room(sending, deadline, number)
                sending.append(self._parts.submit(self._send, name, part, upload, number, deadline))
                del part
            done = [future.result() for future in sending]
            deadline.check()
            return self._client.complete_upload(name, upload, done, token)
        except BaseException:
            for future in sending:
                future.cancel()
            wait(sending)
            with contextlib.suppress(Exception):  # swept later; the first error is the one to report
                self._client.abort_upload(name, upload.id)
            raise

    def _make_room(self, sending: Sequence[Future[SentPart]], deadline: Deadline, number: int) -> None:
        """Wait until another part may be in flight. Raises the error of a part that failed."""
        if number > PARTS_MAX:
            raise Misconfigured(f"an object may have {PARTS_MAX} parts of {self._settings.part_bytes} bytes, not more")
        running = {future for future in sending if not future.done()}
        while len(running) >= self._settings.parts_at_once:
            running = wait(running, return_when=FIRST_COMPLETED).not_done
        deadline.check()
        for future in sending:
            if future.done():
                future.result()

    def _send(self, name: str, part: Part, upload: OpenUpload, number: int, deadline: Deadline) -> SentPart:
        deadline.check()
        return self._client.upload_part(name, part, upload, number)
