"""Descriptors: the limit of this process, and its division between files and connections.

Invariant: files come first. Clients' connections get the rest of the limit after log files, RocksDB, readers, uploads,
other nodes and HTTP, so that no number of strangers keeps the log from its next file.
"""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass
from typing import Final

from gateway.config.loading import Config
from gateway.network.connection_limits import INNER_CONNECTIONS_MAX

logger = logging.getLogger(__name__)

FILES: Final = 128
"""Descriptors for listening sockets, the log and its spare, 64 files of RocksDB, sidecars, the rewriting process: some
25 at rest."""
PER_UPLOAD: Final = 2
"""Descriptors of an upload: the file or connection, and a spool beside it."""
HTTP_MAX: Final = 256
"""Connections of HTTP: scrapers, probes and a few people."""
LIMIT_MAX: Final = 1 << 20
"""Descriptors that we ask for at most: some kernels name a number that no process can have."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Connections of Kafka clients, and of HTTP, that the descriptors allow."""

    kafka: int
    http: int


def raise_limit() -> int:
    """Raise the limit on descriptors as far as we may, as shells set it to 1,024; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = LIMIT_MAX if hard == resource.RLIM_INFINITY else min(hard, LIMIT_MAX)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft if soft != resource.RLIM_INFINITY else LIMIT_MAX
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        logger.warning("the limit on open files stays as it is", extra={"open_files_max": soft, "error": str(error)})
        return soft
    return wanted


def share(config: Config, limit: int) -> Shares:
    """The connections' share of `limit` descriptors: at least a quarter, at most the configured number."""
    files = FILES + config.log_reader_threads + config.tier2_readers + PER_UPLOAD * config.tier2_uploads
    files += INNER_CONNECTIONS_MAX if config.cluster else 0
    http = min(HTTP_MAX, max(8, limit // 8)) if config.http_listen else 0
    kafka = max(limit - files - http, limit // 4, 1)
    return Shares(min(config.max_connections, kafka), http)


def shares_of_this_process(config: Config) -> Shares:
    """The same for the current limit; logs a warning if the share is less than configured."""
    limit = raise_limit()
    shares = share(config, limit)
    if shares.kafka < config.max_connections:
        logger.warning(
            "max.connections is more than this process may open: further connections are closed earlier. Raise the "
            "limit on open files (ulimit -n, LimitNOFILE=)",
            extra={
                "max_connections": config.max_connections,
                "connections_max": shares.kafka,
                "open_files_max": limit,
            },
        )
    return shares
