"""Names below the data directory that the configuration and the directory itself both need.

Keeps: each name has one use; `gateway.config.conflicts` refuses to put long-term storage into one of them.
"""

from __future__ import annotations

from typing import Final

STORE_DIRECTORY: Final = "store"
RECOVERING_DIRECTORY: Final = "recovering"
"""A store that `penstock recover` has not completed; it is renamed when it is whole."""
REGISTRY_FILE: Final = "registry.db"
"""What the workers of a gateway share: topics, their places, settings. SQLite keeps two more files beside it."""
CACHE_DIRECTORY: Final = "tier2-cache"
"""The disk cache, of `tier2.disk.cache.bytes`."""
TIER2_DIRECTORY: Final = "tier2"
"""The objects of `tier2 = file`."""
