"""What a request costs one, two and three nodes of a cluster, and what of it etcd hears: `python -m bench.nodes`.

Keeps: the load is of an idempotent producer that sends each record in a request of its own, as many a second for all
nodes together (`--load all`) or for each of them (`--load each`); the processor time is that of the nodes' processes
alone, less what they take at rest; etcd's own counters tell what it was asked.

Writes its part of `results/nodes.json`: by the load and the number of nodes, the median over the rounds of microseconds
a request, and of etcd's calls a request.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import tempfile
import time
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import AdminClient, NewTopic

from bench.failover import CONTAINERS, TOPIC, WAIT_S, Load, Nodes, running, spread

RESULT: Final = Path(__file__).resolve().parent / "results" / "nodes.json"
COUNTS: Final = (1, 2, 3)
RATE: Final = 400
"""Requests a second."""
LOADS: Final = ("all", "each")
REST_S: Final = 5.0
LOAD_S: Final = 10.0
TICKS_S: Final = os.sysconf("SC_CLK_TCK")
CALLS: Final = ("Range", "Txn")
"""The methods of etcd to count: the guard asks by a transaction without changes. Renewals of leases and watches depend
on time alone."""


def processor_s(nodes: Nodes) -> float:
    """What all nodes have used."""
    ticks = 0
    for node in nodes.running.values():
        fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_S


def asked_of_etcd(nodes: Nodes) -> int:
    """How many of `CALLS` were made."""
    with urllib.request.urlopen(f"http://{nodes.etcd.endpoint}/metrics", timeout=WAIT_S) as answer:
        text = answer.read().decode()
    found = 0
    for line in re.findall(r"^grpc_server_handled_total\{.*$", text, re.MULTILINE):
        method = line.partition('grpc_method="')[2].partition('"')[0]
        if method in CALLS:
            found += int(float(line.rpartition(" ")[2]))
    return found


def requests_s(load: str, count: int) -> int:
    """The requests a second for all of `count` nodes together."""
    return RATE * count if load == "each" else RATE


def measured(count: int, rate: int, directory: Path) -> dict[str, float]:
    """Measure one round with this number of nodes and of requests a second."""
    with running(directory, count) as nodes:
        admin = AdminClient({"bootstrap.servers": nodes.addresses[1]})
        admin.create_topics([NewTopic(TOPIC, CONTAINERS)])[TOPIC].result(WAIT_S)
        spread(nodes)
        began = processor_s(nodes)
        time.sleep(REST_S)
        at_rest = (processor_s(nodes) - began) / REST_S
        load = Load(list(nodes.addresses.values()), rate)
        try:
            load.until_all_go_on(time.monotonic() + 1.0)
            before, asked, acknowledged = processor_s(nodes), asked_of_etcd(nodes), sum(map(len, load.times.values()))
            began_s = time.monotonic()
            time.sleep(LOAD_S)
            took_s = time.monotonic() - began_s
            used = processor_s(nodes) - before - at_rest * took_s
            calls = asked_of_etcd(nodes) - asked
            requests = sum(map(len, load.times.values())) - acknowledged
        finally:
            load.end()
        if load.failed:
            raise SystemExit(f"{len(load.failed)} records were not acknowledged: {load.failed[0]}")
    told = {"us_a_request": 1e6 * used / requests, "at_rest_percent": 100 * at_rest / count}
    return told | {"etcd_calls_a_request": calls / requests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", choices=LOADS, default=LOADS[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rates = {count: requests_s(options.load, count) for count in COUNTS}
    found: defaultdict[int, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(options.rounds):
        for count in COUNTS:
            directory = Path(tempfile.mkdtemp(prefix="nodes-", dir=os.environ.get("BENCH_DIR")))
            try:
                for name, value in measured(count, rates[count], directory).items():
                    found[count][name].append(value)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
            print(count, {name: round(values[-1], 2) for name, values in found[count].items()}, flush=True)
    told: dict[str, Any] = {
        str(count): {name: round(statistics.median(values), 3) for name, values in by_name.items()}
        for count, by_name in found.items()
    }
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    results[options.load] = {"requests_s": list(rates.values()), "rounds": options.rounds, "nodes": told}
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
