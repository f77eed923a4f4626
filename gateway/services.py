"""The services that handlers reach, by name and type.

Invariant: the broker makes them all before the first request and replaces none, so a handler may keep a reference.
The broker's own parts (its phase, its sockets, its start and stop) cannot be reached from here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from core.clock import Clock
from core.store import Store
from core.streams.live import Stream
from gateway.cluster.nodes import Nodes
from gateway.cluster.picture import Picture
from gateway.cluster.vacancies import Vacancies
from gateway.config.model import Config
from gateway.fetching.sessions import FetchSessions
from gateway.groups.coordinators import GroupCoordinators
from gateway.groups.elsewhere import Elsewhere
from gateway.groups.share.service import ShareGroups
from gateway.internal_topics.readable import ReadableTopics
from gateway.internal_topics.topics import InternalTopics
from gateway.kafka_configs.features import FinalizedFeatures
from gateway.kafka_configs.resource_configs import ResourceConfigs
from gateway.metrics.counters import Metrics
from gateway.quotas.quotas import Quotas
from gateway.records.openers import Openers
from gateway.security.authorizer import Authorizer
from gateway.security.delegation_tokens import DelegationTokens
from gateway.security.scram_users import ScramUsers
from gateway.telemetry.receiver import Telemetry
from gateway.topics.topics import Topics
from gateway.transactions.coordinators import TransactionCoordinators
from gateway.transactions.producer_admission import NewProducers
from gateway.transactions.producer_ids import ProducerIds
from gateway.transactions.refused_batches import RefusedBatches


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Services:
    """One broker's services. `node_id` and `cluster_id` are those in Metadata's answers."""

    config: Config
    node_id: int
    nodes: Nodes
    vacancies: Vacancies
    picture: Picture
    forget_node: Callable[[int], Awaitable[bool]] | None
    """Forgets a node of the cluster that has gone, and says whether it was there to be forgotten. Raises StoreError."""
    cluster_id: str
    clock: Clock
    metrics: Metrics
    store: Store
    topics: Topics
    resource_configs: ResourceConfigs
    features: FinalizedFeatures
    telemetry: Telemetry
    internal_topics: InternalTopics
    all_topics: ReadableTopics
    producers: ProducerIds
    new_producers: NewProducers
    refused_batches: RefusedBatches
    groups: GroupCoordinators
    elsewhere: Elsewhere
    share: ShareGroups
    transactions: TransactionCoordinators
    fetch_sessions: FetchSessions
    openers: Openers
    scram_users: ScramUsers
    delegation_tokens: DelegationTokens
    quotas: Quotas
    authorizer: Authorizer | None
    """None: every client may do everything (`authorizer.class.name`)."""
    validates_fully: bool
    """The records of every batch are read before it is stored (`record.validation`)."""

    def readable(self, topic: str | UUID | None) -> Stream | None:
        """The topic of that name or id, real or internal, for whoever only looks at it."""
        if topic is None:
            return None
        return self.all_topics.get(topic) if isinstance(topic, str) else self.all_topics.by_uuid(topic)
