"""The API's models of the nodes of a cluster.

Keeps: as in `gateway.http.models`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.http.models import ApiModel

State = Literal["serving", "not ready", "draining", "silent", "gone", "stopped"]

Stage = Literal["serving", "opening", "nobody"]


class NodeView(ApiModel):
    """A node, or a worker."""

    id: int
    state: State = Field(
        description="silent: it lives, and has not answered; gone: it has ended; stopped: it has, and on purpose"
    )
    concerns: list[str] = Field(description="As its /readyz tells them; empty if it has not answered")
    connections: int | None = Field(description="Of Kafka's clients; null if it has not answered")
    gone_s: float | None = Field(description="Since it ended, as the others have heard; null if nobody has")
    served: list[int] = Field(default_factory=list, description="The containers that it had when it ended")


class ContainerView(ApiModel):
    """A container, and who has it."""

    id: int
    node: int = Field(description="-1: nobody")
    epoch: int = Field(description="The leader epoch of its partitions; -1: nobody has it")
    stage: Stage
    going_to: int = Field(description="The node that it is to go to; -1: it stays")


class NodeList(ApiModel):
    """The nodes of a cluster, or the workers of a gateway, and their containers."""

    time_ms: int
    certain: bool = Field(description="False: whoever answered has lost its lease, and the rest may be outdated")
    nodes: list[NodeView]
    containers: list[ContainerView]
