"""Asks Kafka's own validators about every key that Penstock shares with it: `python -m tests.likeness.ranges`.

Writes `ranges.json`: the values that were asked of each type; the names of all keys of a broker; by kind and key its
type, its default, and the refused values by the reason.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from compat_tests.harness.system import JARS, JVM_FLAGS
from gateway.config import fields
from gateway.config.loading import FIELDS, load
from gateway.kafka_configs.broker_configs import BrokerConfigs
from gateway.kafka_configs.resource_keys import KINDS
from gateway.kafka_configs.topic_keys import TOPIC_KEYS

HERE: Final = Path(__file__).parent
RANGES: Final = HERE / "ranges.json"
ASKED_SECONDS_MAX: Final = 300

EDGES: Final = (
    *(-(2**63), -(2**31), -2, 0, 1, 2, 4, 9, 10, 14, 17, 22, 100, 1_000, 1_024, 5_000, 10_000, 15_000, 2**15),
    *(45_000, 60_000, 100_000, 2**20, 3_600_000, 2**31, 2**63),
)
NUMBERS: Final = sorted({edge + step for edge in EDGES for step in (-1, 0, 1)})
ODD: Final = ("", " 7 ", "+7", "07", "7.0", "7.5", "7e3", "0x10", "1_000", "7L", "seven", "null", "-0", "NaN")
BOOLEANS: Final = ("true", "false", "TRUE", "False", " true ", "yes", "no", "on", "off", "t", "1", "0", "", "y", "null")
RATIOS: Final = ("0", "1", "0.5", ".5", "1.", "1e-1", "-0.1", "1.1", "-0.0", " 0.5 ", "+0.5", "", "half", "NaN", "0.5d")
WORDS: Final = (
    *("", "x", "delete", "compact", "compact,delete", "delete,compact", " delete , compact ", "delete,delete"),
    *("compact,,delete", ",", "Delete", "none", "producer", "uncompressed", "gzip", "snappy", "lz4", "zstd", "GZIP"),
    *(" gzip ", "CreateTime", "LogAppendTime", "createtime", "*", "0:1", "0:1,1:1", "0:1,*", "0", "a:b", "-1:1"),
    *("latest", "earliest", "by_duration:PT1H", "by_duration:P1DT2H3M4.5S", "by_duration:P1D", "by_duration:P"),
    *("by_duration:PT", "by_duration:1h", "by_duration:-PT1H", "read_committed", "read_uncommitted", "READ_COMMITTED"),
    *("org.apache", "org.a,org.b", "client_id=a.*", "client_id=", "client_id=[", "age=7", "client_id=a,client_id=b"),
)
VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "INT": (*map(str, NUMBERS), *ODD),
    "SHORT": (*map(str, NUMBERS), *ODD),
    "LONG": (*map(str, NUMBERS), *ODD),
    "DOUBLE": RATIOS,
    "BOOLEAN": BOOLEANS,
    "STRING": WORDS,
    "LIST": WORDS,
}
APART: Final = {
    "listeners",
    "node.id",
    "advertised.listeners",
    "listener.security.protocol.map",
    "authorizer.class.name",
}
"""Shared names of which Kafka's validators look at more than the value: addresses, the members of a quorum."""
OURS: Final = ("penstock.", "errors.deadletterqueue.")
"""Beginnings of keys that no released Kafka has; dead letters are designed for a later one (KIP-1191)."""
SECURITY: Final = ("ssl.", "sasl.", "authorizer.", "delegation.")
"""Texts of keys that begin so name mechanisms, classes, files and rules, which Kafka looks at when it uses them."""


def _is_text(key: str) -> bool:
    return fields.type_name(FIELDS[key][1]) in ("string", "list", "password")


def shared() -> dict[str, set[str]]:
    """Penstock's keys by kind: those of its start, those that can be set at run time, those of resources."""
    brokers = BrokerConfigs(load(environ={})).keys
    resources = {kind.type.name.lower().replace("_", "-"): set(kind.keys) for kind in KINDS.values()}
    return {
        "broker": {key for key in FIELDS if key not in APART and not (key.startswith(SECURITY) and _is_text(key))},
        "cluster": {name for name, entry in brokers.items() if entry.dynamic},
        "topic": set(TOPIC_KEYS),
        **resources,
    }


def asked(lines: list[str]) -> list[list[str]]:
    """The program's answer."""
    command = ["java", *JVM_FLAGS, "-cp", str(JARS / "*"), str(HERE / "Ranges.java")]
    given = "".join(line + "\n" for line in lines)
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, timeout=ASKED_SECONDS_MAX)
    return [line.split("\t") for line in done.stdout.removesuffix("\n").split("\n")]


def recorded() -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The names of all keys of a broker, and what is known of the shared ones."""
    ours = shared()
    found: dict[str, dict[str, Any]] = {kind: {} for kind in ours}
    names = []
    for kind, key, its_type, default in asked(list(ours)):
        if kind == "broker":
            names.append(key)
        if key in ours[kind] and its_type in VALUES:
            found[kind][key] = {"type": its_type, "default": default, "refused": {}}
    for kind, key, value, why in asked(list(_questions(found))):
        if why:
            found[kind][key]["refused"].setdefault(told(why, key, value), []).append(value)
    return names, found


def told(why: str, key: str, value: str) -> str:
    """A reason without its subject, so that equal reasons are equal."""
    return why.replace(f"Invalid value {' '.join(value.split())} for", "Invalid value {value} for").replace(
        key, "{key}"
    )


def _questions(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for kind, keys in found.items():
        for key, row in keys.items():
            for value in VALUES[row["type"]]:
                yield f"{kind}\t{key}\t{value}"


def main() -> None:
    names, found = recorded()
    kinds = [f' "values": {json.dumps(VALUES, ensure_ascii=False)}', f' "names": {json.dumps(sorted(names))}']
    for kind, rows in found.items():
        lines = [f"  {json.dumps(key)}: {json.dumps(rows[key], ensure_ascii=False)}" for key in sorted(rows)]
        kinds.append(f" {json.dumps(kind)}: {{\n" + ",\n".join(lines) + "\n }")
    RANGES.write_text("{\n" + ",\n".join(kinds) + "\n}\n")


if __name__ == "__main__":
    main()
