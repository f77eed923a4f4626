"""`penstock cluster rebuild`: a cluster's keys in etcd, made anew from the bucket.

Keeps: nothing is written where a cluster is, nor without `--yes`, and nothing in the bucket is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core import rebuilding
from core.cluster import etcd_keys
from core.cluster.etcd.client import EtcdClient
from core.cluster.etcd.session import Session
from core.container.container import Container
from core.log.objects.looking import containers_in
from core.rebuilding import ContainerFacts, Rebuilt
from gateway.cli.cluster_commands import ended
from gateway.cli.options import Settings
from gateway.cli.output import Output
from gateway.cluster.seat import etcd_settings
from gateway.cluster.settings_copy import SettingsCopy
from gateway.cluster.settings_keeper import newest_copy, settings_key
from gateway.config.cluster import CLUSTER_CONTAINERS_MAX, parse_cluster
from gateway.config.loading import Config
from gateway.exits import ExitCode
from gateway.groups.persistence import UnreadableRecord
from gateway.kafka_configs.broker_configs import SETTINGS as BROKER_CONFIGS
from gateway.kafka_configs.features import TABLE as FEATURES
from gateway.kafka_configs.resource_configs import SETTINGS as RESOURCE_CONFIGS
from gateway.long_term.identity import Identity, read_identity
from gateway.long_term.opening import LongTermUnusable, open_storage, place_of
from gateway.quotas.quotas import TABLE as QUOTAS
from gateway.security.acl_format import TABLE as ACLS
from gateway.security.delegation_rows import TABLE as DELEGATION_TOKENS
from gateway.security.scram_users import TABLE as USERS
from gateway.transactions.persistence import TRANSACTIONS_TABLE, decode_transaction
from tier2.storage import Storage

DROPPED_SHOWN: Final = 20
NO_COPY: Final = (
    "the bucket has no copy of the dynamic settings: settings of brokers, clients and groups, quotas, ACLs, users of "
    "SCRAM and delegation tokens are gone. Make them again before clients come back; topics have theirs"
)
KINDS: Final = {
    ACLS: "ACLs",
    QUOTAS: "quotas",
    BROKER_CONFIGS: "settings of brokers",
    RESOURCE_CONFIGS: "settings of groups and clients",
    FEATURES: "features",
    USERS: "credentials of SCRAM",
    DELEGATION_TOKENS: "delegation tokens",
}
"""What people call the kinds of settings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a person has asked for."""

    yes: bool
    scratch: Path | None = None
    without_secrets: bool = False


def run_rebuild(settings: Settings, wanted: Wanted, *, as_json: bool) -> ExitCode:
    """Rebuild, or show what would be written."""
    config, output = settings.load(), Output(as_json=as_json)

    async def main() -> ExitCode:
        return await rebuild(config, output, wanted)

    return ended(config, main)


async def rebuild(config: Config, output: Output, wanted: Wanted) -> ExitCode:
    """Read all containers and the copy of the settings, and write the keys with a yes."""
    prefix = etcd_keys.prefix_of(parse_cluster(config.cluster).name)
    async with AsyncExitStack() as undo:
        client = EtcdClient(etcd_settings(config))
        undo.push_async_callback(client.close)
        await rebuilding.refuse_where_cluster_is(client, prefix)
        storage = await open_storage(config, create=False)
        if storage is None:
            raise LongTermUnusable("tier2 = off: name the bucket that has the cluster's log, with --tier2")
        undo.push_async_callback(storage.close)
        identity = await read_identity(storage, place_of(config))
        if identity is None:
            raise LongTermUnusable(f"{place_of(config)} has no cluster: check --tier2, its prefix too")
        copy = await newest_copy(storage, settings_key(config), without_secrets=wanted.without_secrets)
        if copy is not None and copy.cluster != identity.cluster_id:
            raise LongTermUnusable(
                f"{place_of(config)} has settings of another cluster, {copy.cluster[:100]}: remove them"
            )
        facts = await _facts(config, storage, output, wanted.scratch)
        rebuilt = rebuilding.agreed(facts) if copy is None else rebuilding.agreed(facts, copy.rows, copy.version.epoch)
        _show(output, identity, facts, rebuilt, copy, written=wanted.yes)
        if wanted.yes:
            session = Session(client, prefix)
            undo.push_async_callback(session.close)
            meta = etcd_keys.Meta(identity.cluster_id, len(facts))
            await rebuilding.write(client, session, prefix, meta, rebuilt)
            output.note("etcd has the cluster again: start the nodes")
        else:
            output.note("nothing was written: say --yes to do it")
    return ExitCode.CLEAN


async def _facts(config: Config, storage: Storage, output: Output, scratch: Path | None) -> list[ContainerFacts]:
    containers = await containers_in(storage, CLUSTER_CONTAINERS_MAX)
    if not containers:
        raise LongTermUnusable(f"{place_of(config)} has no log of a cluster: check --tier2, its prefix too")
    facts: list[ContainerFacts] = []
    with output.progress("containers", containers) as advance:
        for container in range(containers):
            settings = config.store_config()
            facts.append(await rebuilding.look_at(storage, container, settings, scratch, _highest_producer))
            advance(1)
    return facts


def _highest_producer(container: Container) -> int:
    """The highest producer id that transactional ids have, or -1."""
    return max(_producers(container), default=-1)


def _producers(container: Container) -> Iterator[int]:
    for key, value in container.table(TRANSACTIONS_TABLE).entries.items():
        with suppress(UnreadableRecord):  # what a later release wrote is read when it is served
            found = decode_transaction(key, value)
            yield from (found.identity.producer_id, found.last.producer_id, found.next.producer_id)


def _show(
    output: Output,
    identity: Identity,
    facts: list[ContainerFacts],
    rebuilt: Rebuilt,
    copy: SettingsCopy | None,
    *,
    written: bool,
) -> None:
    counters = {
        "epoch": rebuilt.epoch,
        "next_topic_id": rebuilt.next_stream,
        "next_producer_id": rebuilt.next_writer,
    }
    if output.as_json:
        containers = [{"id": one.container, "epoch": one.epoch, "topics": len(one.streams)} for one in facts]
        topics = [{"name": one.name, "id": one.id, "partitions": one.slots} for one in rebuilt.streams]
        dropped = [{"name": one.name, "id": one.id} for one in rebuilt.dropped]
        told = {"cluster": identity.cluster_id, "containers": containers, "topics": topics, "dropped": dropped}
        settings = {"settings": _counts(rebuilt), "settings_left_out": {} if copy is None else dict(copy.left_out)}
        output.result({**told, **settings, **counters, "yes": written})
        return
    output.fields({"cluster": identity.cluster_id, "topics": len(rebuilt.streams), **counters})
    if rebuilt.settings:
        output.line("")
        output.table(("settings", "rows"), [(KINDS.get(kind, kind), count) for kind, count in _counts(rebuilt).items()])
    output.line("")
    output.table(("container", "epoch", "topics"), [(one.container, one.epoch, len(one.streams)) for one in facts])
    for one in rebuilt.dropped[:DROPPED_SHOWN]:
        output.note(f"topic {one.name!r} with id {one.id} was deleted and made again: the newer one is kept")
    if len(rebuilt.dropped) > DROPPED_SHOWN:
        output.note(f"and so were {len(rebuilt.dropped) - DROPPED_SHOWN} more")
    if copy is None:
        output.note(NO_COPY)
    elif copy.left_out:
        missing = ", ".join(f"{count} {KINDS.get(kind, kind)}" for kind, count in copy.left_out.items())
        output.note(f"the copy of the settings lacks {missing}: make them again before clients come back")


def _counts(rebuilt: Rebuilt) -> dict[str, int]:
    return dict(sorted(Counter(kind for kind, _, _ in rebuilt.settings).items()))
