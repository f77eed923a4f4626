"""The directories of the store, as clients know them: Kafka's log directories."""

from __future__ import annotations

from core.store import Store
from core.streams.live import Slot
from gateway.config.model import Config


def directories_of(config: Config) -> list[str]:
    """All directories, the first first."""
    return [str(path.absolute()) for path in config.data_dirs or (config.data_dir,)]


def directory_of(config: Config, store: Store, slot: Slot) -> str:
    """The directory that a partition lies in."""
    directories = directories_of(config)
    return directories[store.config.container_ids.index(slot.container_id) % len(directories)]
