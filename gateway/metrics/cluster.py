"""What a node sees of its cluster, for its `/metrics`: each node tells its own view, so that one that was cut off tells
that of itself. A view of all is a query over those of all nodes: their maximum, their minimum, or whether they differ.

Keeps: it reads memory, and asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, get_args

from gateway.cluster.picture import Picture, Seen
from gateway.metrics.counters import Metrics

STAGES: Final[tuple[Seen, ...]] = get_args(Seen)


def offer_cluster(metrics: Metrics, picture: Picture, here: Callable[[], int]) -> None:
    """Offer who lives and what is served, as this node sees it. `here`: how many containers this node has."""
    metrics.gauge(
        "penstock_cluster_nodes",
        "Nodes that live, as this one sees it",
        lambda: sum(node.end is None for node in picture.nodes()),
    )
    metrics.gauge(
        "penstock_cluster_draining_nodes",
        "Of those, nodes that give their containers away",
        lambda: sum(node.end is None and node.is_draining for node in picture.nodes()),
    )
    metrics.gauge(
        "penstock_cluster_gone_nodes",
        "Nodes that have ended without being stopped, and were not forgotten",
        lambda: sum(node.end == "gone" for node in picture.nodes()),
    )
    for stage in STAGES:
        metrics.gauge(
            "penstock_cluster_containers",
            "Containers of the cluster, by what becomes of them, as this node sees it",
            partial(_count, picture, stage),
            stage=stage,
        )
    metrics.gauge("penstock_cluster_containers_here", "Containers that this node has", here)
    metrics.gauge(
        "penstock_cluster_lease", "1 while this node's lease in etcd is certainly there", lambda: picture.is_certain
    )


def _count(picture: Picture, stage: Seen) -> int:
    return sum(one.stage == stage for one in picture.containers())
