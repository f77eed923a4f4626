"""The configuration keys of the containers, and of the disks that they lie on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, Field

CONTAINERS_MAX: Final = 64
"""A container has threads, files and caches of its own."""


class ContainerKeys(BaseModel):
    """Part of `Config`."""

    containers: int = Field(
        0,
        ge=0,
        le=CONTAINERS_MAX,
        description="Containers, each with a log of its own, over which partitions are spread. Fixed when a data "
        "directory is made. 0: as many as it has; for a new one, one for each of data.dirs.",
    )
    workers: int = Field(
        1,
        ge=0,
        le=CONTAINERS_MAX,
        description="Processes that share the work: each is a Kafka node with a port of its own, counted from that of "
        "each listener without the one of http.listen, and has a part of the containers. 0 or auto: as many as there "
        "are processors, and no more than containers.",
    )
    data_dirs: tuple[Path, ...] = Field(
        (),
        description="Directories over which containers are spread in turn, one a disk; the first is data.dir. "
        "Fixed when the data directory is made, in number and order. Not set: data.dir alone.",
        json_schema_extra={"allowed": "paths, separated by commas"},
    )
