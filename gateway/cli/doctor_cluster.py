"""Asks the members of etcd, each by itself, for the cluster that is configured.

Keeps: one key is read, and nothing written; no password is in a fact. All members together are asked for ANSWER_S.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Final

from core.cluster import etcd_keys
from core.cluster.etcd.client import EtcdClient, EtcdSettings
from core.cluster.etcd.wire import Range
from core.errors import StoreError
from gateway.cli.doctor_facts import MemberFacts
from gateway.cluster.seat import etcd_settings
from gateway.config.cluster import parse_cluster
from gateway.config.model import Config

ANSWER_S: Final = 3.0


async def members(config: Config) -> list[MemberFacts]:
    """The facts of each member; none without a cluster."""
    if not config.cluster:
        return []
    settings, name = etcd_settings(config), parse_cluster(config.cluster).name
    alone = [replace(settings, endpoints=(one,)) for one in settings.endpoints]
    return list(await asyncio.gather(*(_member(one, name) for one in alone)))


async def _member(settings: EtcdSettings, name: str) -> MemberFacts:
    (address,) = map(str, settings.endpoints)
    began = time.perf_counter()
    try:
        wanted = Range(etcd_keys.prefix_of(name) + etcd_keys.META)
        client = EtcdClient(settings)
        try:
            found = await client.read(wanted, within_s=ANSWER_S)
        finally:
            await client.close()
        for key in found.keys:
            etcd_keys.Meta.decode(key.value)
    except StoreError as error:
        return MemberFacts(address, error=str(error)[:500])
    return MemberFacts(address, (time.perf_counter() - began) * 1000, is_begun=bool(found.keys))
