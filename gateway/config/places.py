"""Names below the data directory that the configuration and the directory itself both need.

Keeps: each name is one thing's alone; `gateway.config.conflicts` refuses to put long-term storage into one of them.
"""

from __future__ import annotations

from typing import Final

STORE_DIRECTORY: Final = "store"
RECOVERING_DIRECTORY: Final = "recovering"
"""A store that `penstock recover` has not completed: it gets its name when it is whole."""
CACHE_DIRECTORY: Final = "tier2-cache"
"""Where `tier2.disk.cache.bytes` lie."""
TIER2_DIRECTORY: Final = "tier2"
"""Where `tier2 = file` keeps its objects."""
