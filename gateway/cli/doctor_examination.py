"""All that `penstock doctor` looks at, one after another.

Keeps: a part that cannot be measured is a finding, and the others are measured all the same. Works beside a running
gateway, and changes nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from gateway.cli import doctor_addresses as addresses
from gateway.cli import doctor_cluster as cluster
from gateway.cli import doctor_disk as disk
from gateway.cli import doctor_judgements as judgements
from gateway.cli import doctor_long_term as long_term
from gateway.cli import doctor_machine as machine
from gateway.cli.doctor_certificates import certificates
from gateway.cli.doctor_facts import Finding, ok, warning
from gateway.config.model import Config
from gateway.disks import wanted_of

SPARES: Final = 2
"""Files of log.file.bytes beside each log: the spare one, and one that is being made."""


def examine(config: Config) -> list[Finding]:
    """Every finding, in the order in which a start needs the things. Blocks, up to some minutes."""
    watch = machine.ClockWatch()
    directories = directories_of(config)
    locked_by = disk.locked_by(directories[0].absolute())
    found = [ok("configuration", "loads; `penstock config --changed` shows it")]
    ports = list(addresses.ports(config, locked_by))
    running = frozenset(one.name for one in ports if one.is_our_gateway)
    found += map(judgements.of_port, ports)
    found += _safely("advertised", lambda: map(judgements.of_advertised, addresses.advertised(config, running)))
    for path in directories:
        facts = disk.measured(path, wanted_bytes(config))
        found += judgements.of_directory(facts)
    found.append(judgements.of_limits(machine.limits(config)))
    found.append(judgements.of_memory(machine.memory(config)))
    found += judgements.of_etcd(asyncio.run(cluster.members(config)), config.cluster)
    found += _safely("long-term storage", lambda: judgements.of_storage(asyncio.run(long_term.tried(config))))
    clock = watch.facts(directories)
    found += (judgements.of_certificate(one, clock.now_s) for one in certificates(config))
    found.append(judgements.of_clock(clock))
    return found


def directories_of(config: Config) -> tuple[Path, ...]:
    """The directories of the store, the first of which has its lock."""
    return config.data_dirs or (config.data_dir,)


def wanted_bytes(config: Config) -> int:
    """Bytes that the logs of a new store may take in each of its directories."""
    layout = wanted_of(config).layout()
    logs = -(-layout.containers // layout.directories)
    return config.log_max_bytes // layout.directories + logs * SPARES * config.log_file_bytes


def _safely(check: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings; what stands in the way of looking is one, too."""
    try:
        return list(look())
    except OSError as error:
        return [warning(check, f"could not be looked at: {error.strerror or error}", "see the error, and try again")]
