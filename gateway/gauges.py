"""What `/metrics` tells of a broker's services: how much there is of what clients can make, beside its bound.

Keeps: a number is asked for when somebody reads it, so that offering costs the request paths nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from core.hosted import HostedContainer
from core.store import Store
from core.streams.known_writers import KnownWriters
from gateway.groups.share.dead_letters import DeadLetters
from gateway.metrics.counters import Metrics
from gateway.metrics.tiers import offer_container as offer_tiers
from gateway.network.server import Server
from gateway.services import Services
from gateway.telemetry.receiver import Telemetry
from gateway.transactions.coordinators import TransactionCoordinators


def offer_services(metrics: Metrics, services: Services, letters: DeadLetters) -> None:
    """Offer what the services hold."""
    metrics.gauge("penstock_topics", "Topics", lambda: len(services.topics))
    metrics.counter(
        "penstock_share_dead_letters_total",
        "Records that share groups have given up, with a letter in a dead-letter topic",
        lambda: letters.written,
    )
    metrics.gauge("penstock_groups", "Consumer groups", lambda: len(services.groups))
    coordinators = services.groups, services.share.coordinators, services.transactions
    metrics.gauge(
        "penstock_coordinators_loading",
        "Coordinators of groups or transactions that are being loaded: what they keep is not counted, or not all of it",
        lambda: sum(each.loading_count for each in coordinators),
    )
    metrics.memory("members' metadata", lambda: services.groups.allowance.used)
    _offer_moves(metrics, services.store)
    _offer_telemetry(metrics, services.telemetry)
    _offer_limits(metrics, services)
    _offer_transactions(metrics, services.transactions)
    _offer_producers(metrics, services.store.known_writers)
    metrics.gauge("penstock_fetch_sessions", "Sessions", lambda: len(services.fetch_sessions))
    for quota in services.quotas.pauses:
        metrics.counter(
            "penstock_quota_pauses_total",
            "Times a client had to pause, by quota",
            partial(services.quotas.pauses.__getitem__, quota),
            quota=quota,
        )
    if (authorizer := services.authorizer) is not None:
        metrics.gauge("penstock_acls", "ACLs", lambda: len(authorizer))
        metrics.counter("penstock_requests_denied_total", "Denials, a resource each", lambda: authorizer.denied)


def _offer_moves(metrics: Metrics, store: Store) -> None:
    """Slots that went from one container to another one, in this process."""
    counts = store.mover.counts
    metrics.counter("penstock_slots_moved_total", "Slots that have moved to another container", lambda: counts.moved)
    metrics.counter("penstock_slot_moves_failed_total", "Moves of slots that were taken back", lambda: counts.failed)
    metrics.counter(
        "penstock_slot_move_bytes_total", "Bytes of history that were copied by moves", lambda: counts.copied_bytes
    )
    metrics.counter(
        "penstock_slot_frozen_ms_total",
        "Milliseconds in which appends to moving slots were refused",
        lambda: round(1000 * counts.frozen_s),
    )


def offer_budgets(metrics: Metrics, server: Server) -> None:
    """Offer the memory of requests and answers."""
    metrics.memory("requests being received", lambda: server.host.receive_budget.used)
    metrics.memory("requests being handled", lambda: server.host.request_budget.used)
    metrics.memory("responses", lambda: server.host.output_budget.used)


def offer_container(metrics: Metrics, hosted: HostedContainer) -> None:
    """Offer what a container that is open has in memory, in its log and in long-term storage."""
    container, reader = hosted.container, hosted.reader
    metrics.memory(f"tail cache {container.id}", lambda: container.log.slabs.used)
    metrics.memory(f"index cache {container.id}", lambda: reader.index_cache_used)
    metrics.log_syncs[container.id] = container.log.stats
    offer_tiers(metrics, hosted)


def _offer_limits(metrics: Metrics, services: Services) -> None:
    """Offer the count of each thing that clients can make, with the key that bounds it."""
    config, topics, groups = services.config, services.topics, services.groups
    limits: tuple[tuple[str, int, Callable[[], float]], ...] = (
        ("topics.max", config.topics_max, lambda: len(topics)),
        ("partitions.max", config.partitions_max, lambda: topics.partition_count),
        ("auto.create.topics.max", config.auto_create_topics_max, lambda: len(topics)),
        ("groups.max", config.groups_max, lambda: len(groups)),
        ("groups.metadata.max.bytes", config.groups_metadata_max_bytes, lambda: groups.allowance.used),
        ("telemetry.series.max", config.telemetry_series_max, lambda: services.telemetry.series.count),
        ("producer.states.max", config.producer_states_max, lambda: services.store.known_writers.count),
        ("transactional.ids.max", config.transactional_ids_max, lambda: len(services.transactions)),
        (
            "max.incremental.fetch.session.cache.slots",
            config.max_incremental_fetch_session_cache_slots,
            lambda: len(services.fetch_sessions),
        ),
    )
    for key, limit, used in limits:
        metrics.gauge("penstock_limit", "What a configuration key bounds: the bound", partial(int, limit), key=key)
        metrics.gauge("penstock_limit_used", "What a configuration key bounds: what there is", used, key=key)


def _offer_telemetry(metrics: Metrics, telemetry: Telemetry) -> None:
    series = telemetry.series
    metrics.gauge("penstock_telemetry_clients", "Clients that ask for subscriptions", lambda: telemetry.client_count)
    metrics.counter("penstock_telemetry_pushes_total", "Pushes of clients' metrics", lambda: telemetry.pushes)
    metrics.counter(
        "penstock_telemetry_left_out_total", "Clients' numbers that were not taken", lambda: series.left_out
    )


def _offer_transactions(metrics: Metrics, transactions: TransactionCoordinators) -> None:
    counters = transactions.counters
    metrics.gauge("penstock_transactional_ids", "Transactional ids", lambda: len(transactions))
    metrics.gauge("penstock_transactions_open", "Transactions under way", lambda: transactions.under_way)
    name, doc = "penstock_transactions_ended_total", "Transactions that ended"
    metrics.counter(name, doc, lambda: counters.committed, outcome="committed")
    metrics.counter(name, doc, lambda: counters.aborted, outcome="aborted")
    metrics.counter("penstock_transactions_timed_out_total", "Of the aborted: timed out", lambda: counters.timed_out)


def _offer_producers(metrics: Metrics, known: KnownWriters) -> None:
    name = "penstock_producers_forgotten_early_total"
    metrics.counter(name, "Producers of partitions forgotten for others to have room", lambda: known.forgotten_early)
    metrics.counter(
        "penstock_producers_refused_total", "Batches of producers that were too many", lambda: known.refused
    )
