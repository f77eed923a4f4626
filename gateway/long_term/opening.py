"""Opens long-term storage as configured, or says precisely why it cannot be opened.

Keeps: a message names the place, the problem and the remedy; no message has a key or a secret in it. Opening takes no
longer than `tier2.start.timeout.ms`; until then, a store that is unreachable or starting is tried repeatedly.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from core.tiering.filters import WorkerSetup
from gateway.config.layers import ConfigError
from gateway.config.model import Config
from gateway.config.tiering import Bucket, Directory
from gateway.data_directory import DRILL_DIRECTORY, is_drill
from gateway.exits import CannotGoOn
from gateway.records.compaction import Compactor
from gateway.records.record_batch import entry_head
from tier2.filesystem import FilesystemSettings, FilesystemStorage
from tier2.metered import MeteredStorage
from tier2.overlay import OverlayStorage
from tier2.retrying import RetryingStorage, RetryPolicy
from tier2.storage import Denied, Misconfigured, Storage, StorageError, TimedOut, Unavailable

if TYPE_CHECKING:
    from tier2.s3_settings import S3Settings

logger = logging.getLogger(__name__)

S = TypeVar("S", bound=Storage)

AGAIN_S: Final = 0.5
"""Pause between two tries to reach a storage."""
TOLD_EVERY_S: Final = 10.0
LOG_THREADS_MAX: Final = 256
DISKS_FAULT: Final = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class LongTermUnusable(CannotGoOn):
    """Long-term storage cannot be used as configured; the message names the remedy."""


def place_of(config: Config) -> str:
    """The place of long-term storage, for messages."""
    match config.tier2:
        case Bucket() as place:
            return f"{place} at {config.tier2_endpoint or 'Amazon'}"
        case Directory() as place:
            return f"{place.below(config.data_dir)}"
        case off:
            return off


def is_private(config: Config) -> bool:
    """Does long-term storage lie in the data directory?"""
    place, data_dir = config.tier2, config.data_dir.absolute()
    return isinstance(place, Directory) and place.below(data_dir).is_relative_to(data_dir)


def check_settings(config: Config, environ: Mapping[str, str] | None = None) -> None:
    """Check the configuration without contacting the storage. Raises ConfigError."""
    if isinstance(config.tier2, Bucket):
        _s3_settings(config, config.tier2, os.environ if environ is None else environ)


async def open_storage(
    config: Config,
    environ: Mapping[str, str] | None = None,
    *,
    create: bool = True,
    remark: Callable[[str], None] | None = None,
) -> RetryingStorage | None:
    """The storage, ready for use; None if it is off. Makes a missing bucket or directory if `create`.

    For the data directory of a drill, the storage is read-only. `remark` is called with each remark on the place for
    the operator. Raises ConfigError, LongTermUnusable, OSError (a full disk).
    """
    environ = os.environ if environ is None else environ
    drill = is_drill(config.data_dir)
    create = create and not drill
    match config.tier2:
        case Bucket() as place:
            inner: Storage = await _open_bucket(config, place, environ, create=create, remark=remark)
        case Directory() as place:
            directory = _directory_settings(config, place.below(config.data_dir), create=create)
            advice = ("Name another directory", "Give this user the rights to read and write there")
            inner = await _opened(config, lambda: FilesystemStorage.open(directory), advice)
        case _:
            return None
    if drill:
        scratch = _directory_settings(config, config.data_dir.absolute() / DRILL_DIRECTORY, create=True)
        inner = OverlayStorage(below=inner, above=await FilesystemStorage.open(scratch))
    return RetryingStorage(MeteredStorage(inner), RetryPolicy(), random.Random())


def storage_of_log(config: Config, containers: int, environ: Mapping[str, str] | None = None) -> Storage:
    """The same place once more, for the puts of the log alone: `open_storage` has reached it. Raises ConfigError.

    Its calls are not repeated: the log's writer does that. A call that was given up keeps its thread for as long again
    at most, so there are two for each put.
    """
    threads = min(LOG_THREADS_MAX, 2 * config.log_object_inflight * containers)
    timeout_s = config.log_object_timeout_ms / 1000
    match config.tier2:
        case Bucket() as place:
            from tier2.s3 import S3Storage

            settings = _s3_settings(config, place, os.environ if environ is None else environ)
            own = replace(
                settings,
                reads=threads,
                writes=threads,
                connect_timeout_s=min(settings.connect_timeout_s, timeout_s),
                io_timeout_s=timeout_s,
                read_timeout_s=timeout_s,
                write_timeout_s=timeout_s,
            )
            return S3Storage(own)
        case Directory() as place:
            directory = _directory_settings(config, place.below(config.data_dir), create=False)
            return FilesystemStorage(
                replace(directory, reads=threads, writes=threads, read_timeout_s=timeout_s, write_timeout_s=timeout_s)
            )
        case off:
            raise ConfigError([f"log.store = object: it needs long-term storage, and tier2 = {off}"])


async def _open_bucket(
    config: Config, place: Bucket, environ: Mapping[str, str], *, create: bool, remark: Callable[[str], None] | None
) -> Storage:
    # Imported here: the package behind it takes a third of a second to import.
    from gateway.long_term.key_rotation import credentials_now
    from tier2.s3 import S3Storage

    settings = _s3_settings(config, place, environ)
    advice = (
        f"Start the store there, or correct tier2.endpoint, which is {settings.endpoint}",
        f"Correct the credentials, which are those of {credentials_now(config, environ).source}",
    )

    def open_once() -> Awaitable[S3Storage]:  # with the credentials of that moment
        return S3Storage.open(replace(_s3_settings(config, place, environ), create_bucket=create))

    storage = await _opened(config, open_once, advice)
    if remark is not None:
        with contextlib.suppress(StorageError):  # without permission to ask, there is no remark
            for text in await storage.remarks():
                remark(text)
    return storage


def _directory_settings(config: Config, directory: Path, *, create: bool) -> FilesystemSettings:
    return FilesystemSettings(
        directory=directory,
        create=create,
        reads=config.tier2_readers,
        writes=config.tier2_uploads,
        read_timeout_s=config.tier2_read_timeout_ms / 1000,
        write_timeout_s=config.tier2_write_timeout_ms / 1000,
    )


def worker_setup(config: Config) -> WorkerSetup:
    """The setup with which the process that rewrites chunks opens the same storage and judges record batches."""
    return WorkerSetup(open_storage=_open_in_worker, arguments=(config,), head_of=entry_head, filter_for=Compactor)


async def _open_in_worker(config: Config) -> Storage:
    storage = await open_storage(config)
    assert storage is not None, "chunks are rewritten where there are some"
    return storage


def _s3_settings(config: Config, place: Bucket, environ: Mapping[str, str]) -> S3Settings:
    from gateway.long_term.credentials import find_region
    from gateway.long_term.key_rotation import credentials_now, key_reader
    from tier2.s3_encryption import Encryption
    from tier2.s3_settings import S3Settings

    credentials = credentials_now(config, environ)
    region = find_region(config, environ)
    _check_authorities(config, environ)
    try:
        return S3Settings(
            endpoint=config.tier2_endpoint or f"https://s3.{f'{region}.' if region else ''}amazonaws.com",
            bucket=place.bucket,
            prefix=place.prefix,
            region=region,
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
            session_token=credentials.session_token,
            read_keys=key_reader(config, environ),
            ca_file=str(config.tier2_ca_file) if config.tier2_ca_file else None,
            encryption=Encryption(config.tier2_sse),
            kms_key_id=config.tier2_sse_kms_key_id,
            reads=config.tier2_readers,
            writes=config.tier2_uploads,
            connect_timeout_s=config.tier2_connect_timeout_ms / 1000,
            io_timeout_s=config.tier2_io_timeout_ms / 1000,
            read_timeout_s=config.tier2_read_timeout_ms / 1000,
            write_timeout_s=config.tier2_write_timeout_ms / 1000,
        )
    except Misconfigured as error:
        raise ConfigError([f"tier2 = {config.tier2}: {error}"]) from error


def _check_authorities(config: Config, environ: Mapping[str, str]) -> None:
    """Of those who vouch for the store, before it is asked anything. Raises ConfigError."""
    from gateway.security.pem import BadPem, check_authorities

    key, path = "tier2.ca.file", config.tier2_ca_file
    if path is not None and not os.access(path, os.R_OK):
        raise ConfigError([f"tier2.ca.file = {path}: is not there or cannot be read"])
    is_plain = (config.tier2_endpoint or "").startswith("http:")
    if path is None and not is_plain and (usual := environ.get("SSL_CERT_FILE")):
        key, path = "SSL_CERT_FILE", Path(usual)
    try:
        if path is not None:
            check_authorities(path)
    except BadPem as wrong:
        raise ConfigError([f"{key}: {wrong}"]) from wrong


async def _opened(config: Config, open_once: Callable[[], Awaitable[S]], advice: tuple[str, str]) -> S:
    """Open the storage; retry while it is unreachable. `advice`: for unreachable storage, and for refused access."""
    loop = asyncio.get_running_loop()
    patience_s = config.tier2_start_timeout_ms / 1000
    end = loop.time() + patience_s
    told = -TOLD_EVERY_S
    while True:
        try:
            return await _in_time(open_once, end - loop.time())
        except Unavailable as error:
            if loop.time() >= end:
                why = f"{error}. Waited {patience_s:g} s for it. {advice[0]}"
                raise LongTermUnusable(f"tier2 = {config.tier2}: {why}") from error
            if loop.time() - told >= TOLD_EVERY_S:
                told = loop.time()
                logger.warning("long-term storage cannot be reached yet", extra={"reason": str(error)})
        except Denied as error:
            raise LongTermUnusable(f"tier2 = {config.tier2}: {error}. {advice[1]}") from error
        except StorageError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in DISKS_FAULT:
                raise error.__cause__ from error
            raise LongTermUnusable(f"tier2 = {config.tier2}: {error}. Correct the configuration") from error
        await asyncio.sleep(max(0.0, min(AGAIN_S, end - loop.time())))


async def _in_time(open_once: Callable[[], Awaitable[S]], left_s: float) -> S:
    """One try; the last may take a second, even if less time is left."""
    patience_s = max(left_s, 1.0)
    try:
        async with asyncio.timeout(patience_s):
            return await open_once()
    except TimeoutError as error:
        raise TimedOut(f"no answer within {patience_s:.3g} s") from error
