"""Keeps a copy of the cluster's settings in the bucket, as new as the settings are.

The node with the lowest id of those that live writes; the others are ready to. A new object is put after each change,
`SETTLE_S` later, so that a burst of them makes one.

**Invariants**

- Names sort by how new a copy is (`gateway.cluster.settings_copy`): whoever writes late, because it was cut off, writes
  an older name, and hides nothing. Nobody writes one on purpose: where the bucket has a newer copy than etcd's settings
  are, etcd has an older state than it had, and `concern` says so until a copy can be written that counts.
- Older copies go only when a newer one is stored, and `KEPT` of them stay. A node without a key takes no copy's place
  that has credentials: who forgets the key on one node would else lose them all.
- No client waits for a copy: a change that was answered `SETTLE_S` before etcd was lost may be missing in it. Whoever
  cannot write goes on trying, and `concern` says why.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from core.background import Background
from core.cluster.coordination import Life
from gateway.cluster.settings_copy import (
    NONCE_BYTES,
    PREFIX,
    BadCopy,
    NoKey,
    Row,
    SettingsCopy,
    SettingsKey,
    SettingsView,
    Version,
    decode_copy,
    encode_copy,
)
from gateway.config.loading import Config
from gateway.kafka_configs.broker_configs import SETTINGS as BROKER_CONFIGS
from gateway.kafka_configs.broker_keys import broker_keys
from gateway.kafka_configs.features import TABLE as FEATURES
from gateway.kafka_configs.keys import ConfigType
from gateway.kafka_configs.resource_configs import SETTINGS as RESOURCE_CONFIGS
from gateway.quotas.quotas import TABLE as QUOTAS
from gateway.security.acl_format import TABLE as ACLS
from gateway.security.scram_users import SECRET_KEY as SALTS_OF_STRANGERS
from gateway.security.scram_users import TABLE as USERS
from tier2.storage import AlreadyExists, ObjectInfo, Storage

logger = logging.getLogger(__name__)

SETTLE_S: Final = 0.5
RETRY_S: Final = 5.0
KEPT: Final = 2
OPEN_KINDS: Final = frozenset({ACLS, QUOTAS, FEATURES, RESOURCE_CONFIGS})
"""Kinds without credentials. What is added later is sealed until somebody decides otherwise."""


class NotCopied(Exception):
    """A copy of what this node has would be worse than the one that is there; the message says why, and what to do."""


class Cluster(Protocol):
    """What is needed of the coordinator."""

    @property
    def node(self) -> int: ...

    def lives(self) -> Mapping[int, Life]: ...

    def is_fresh(self) -> bool: ...


def settings_key(config: Config) -> SettingsKey | None:
    """The configured key, if there is one."""
    secret = config.cluster_settings_key
    return None if secret is None else SettingsKey(secret.get_secret_value().encode())


def public_rows(config: Config) -> Callable[[Row], bool]:
    """Tells of a row whether everybody who reads the bucket may read it."""
    names = {name.encode() for name, one in broker_keys(config).items() if one.key.type is not ConfigType.PASSWORD}

    def is_open(row: Row) -> bool:
        kind, key, _ = row
        return key.rpartition(b"\0")[2] in names if kind == BROKER_CONFIGS else kind in OPEN_KINDS

    return is_open


class SettingsKeeper:
    """See the module. For the event loop; end it with `stop`."""

    def __init__(
        self,
        storage: Storage,
        cluster_id: str,
        cluster: Cluster,
        view: Callable[[], SettingsView],
        is_open: Callable[[Row], bool],
        key: SettingsKey | None,
    ) -> None:
        self._storage = storage
        self._cluster_id = cluster_id
        self._cluster = cluster
        self._view = view
        self._is_open = is_open
        self._key = key
        self._is_stored = False  # the newest copy is known to have all
        self._due = asyncio.Event()
        self._background = Background(
            "copy of the settings", -1, self._step, retry_s=RETRY_S, wait=self._until_due, expected=(NotCopied,)
        )

    def __repr__(self) -> str:
        return f"<SettingsKeeper of {self._cluster_id}, {'due' if self._due.is_set() else 'idle'}>"

    @property
    def concern(self) -> str:
        """Why there is no newest copy; empty if there is."""
        error = self._background.last_error
        return f"the copy of the cluster's settings in long-term storage is not the newest: {error}" if error else ""

    def start(self) -> None:
        """Write from now on, whenever it is this node's part."""
        self._due.set()
        self._background.start()

    def changed(self) -> None:
        """Settings have changed."""
        self._is_stored = False
        self._due.set()

    def look(self) -> None:
        """Another node may have to write now."""
        self._due.set()

    async def stop(self) -> None:
        """End. A change that was just made is written by the next node."""
        await self._background.stop()

    async def _until_due(self, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        await self._due.wait()

    async def _step(self) -> float:
        self._due.clear()
        try:
            await self._write()
        except Exception:
            self._due.set()
            raise
        return SETTLE_S

    async def _write(self) -> None:
        if min(self._cluster.lives(), default=None) != self._cluster.node or not self._cluster.is_fresh():
            self._is_stored = False  # another node writes; should this one have to again, it looks at the newest copy
            return
        if self._is_stored:
            return
        self._is_stored = True  # unless something changes from here on
        try:
            await self._store(self._kept(self._view()))
        except BaseException:
            self._is_stored = False
            raise

    def _kept(self, view: SettingsView) -> SettingsView:
        """Without a key, what nobody misses is not counted as left out: each cluster draws strangers' salts anew."""
        if self._key is not None:
            return view
        return SettingsView(view.version, [row for row in view.rows if row[:2] != (USERS, SALTS_OF_STRANGERS)])

    async def _store(self, view: SettingsView) -> None:
        found, name = await copies(self._storage), view.version.key
        if found and await self._is_in(found[-1], view.rows):
            return
        if found and found[-1].key > name:
            raise NotCopied(
                f"{found[-1].key} is newer than etcd's settings, {name}. If etcd was restored from a backup, its "
                "settings are copied when more containers have been claimed, or at once when that object is removed"
            )
        data = await asyncio.to_thread(self._encoded, view)
        try:
            await self._storage.put_new(name, data)
        except AlreadyExists:  # of an attempt without an answer, or of another node: the same settings
            logger.debug("these settings have a copy already", extra={"copy": name})
        logger.info("settings copied to long-term storage", extra={"copy": name, "rows": len(view.rows)})
        older = [one.key for one in found if one.key < name]
        for key in older[: 1 - KEPT]:
            await self._storage.delete(key)

    def _encoded(self, view: SettingsView) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return encode_copy(self._cluster_id, view.version, view.rows, self._is_open, self._key, nonce)

    async def _is_in(self, info: ObjectInfo, rows: Sequence[Row]) -> bool:
        """Whether this copy has just these rows, and those that may be credentials as we would write them."""
        data = await self._storage.get_range(info.key, 0, info.size)
        return await asyncio.to_thread(self._has, info.key, data, rows)

    def _has(self, name: str, data: bytes, rows: Sequence[Row]) -> bool:
        try:
            found = decode_copy(name, data, self._key)
        except NoKey as error:
            if self._key is None:
                raise NotCopied(
                    f"{name} has sealed credentials, and this node has no cluster.settings.key: set it as on the other "
                    "nodes, or remove that object to go on without them"
                ) from error
            return False
        except BadCopy:
            return False
        wanted = rows if self._key is not None else [row for row in rows if self._is_open(row)]
        return sorted(found.rows) == sorted(wanted) and (self._key is None or not found.left_out)


async def copies(storage: Storage) -> list[ObjectInfo]:
    """All copies, the newest last. Raises StorageError."""
    return [info async for info in storage.list(PREFIX) if Version.parse(info.key) is not None]


async def newest_copy(
    storage: Storage, key: SettingsKey | None, *, without_secrets: bool = False
) -> SettingsCopy | None:
    """The newest copy; None if there is none. Raises BadCopy, NoKey, StorageError."""
    found = await copies(storage)
    if not found:
        return None
    newest = found[-1]
    data = await storage.get_range(newest.key, 0, newest.size)
    return await asyncio.to_thread(decode_copy, newest.key, data, key, without_secrets=without_secrets)
