"""What a request costs one, two and three nodes of a cluster, and what of it etcd hears: `python -m bench.nodes`.

Keeps: the same load each time, of an idempotent producer that sends each record in a request of its own; the processor
time is that of the nodes' processes alone, less what they take at rest; etcd's own counters tell what it was asked.

Writes `results/nodes.json`: by the number of nodes, the median over the rounds of microseconds a request, and of etcd's
calls a request, by kind.
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
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import AdminClient, NewTopic

from bench.failover import CONTAINERS, TOPIC, WAIT_S, Load, Nodes, running, spread

RESULT: Final = Path(__file__).resolve().parent / "results" / "nodes.json"
COUNTS: Final = (1, 2, 3)
RATE: Final = 400
REST_S: Final = 5.0
LOAD_S: Final = 10.0
TICKS_S: Final = os.sysconf("SC_CLK_TCK")
CALLS: Final = {"Range": "reads", "Txn": "changes"}
"""The methods of etcd to count. Renewals of leases and watches depend on time alone."""


def processor_s(nodes: Nodes) -> float:
    """What all nodes have used."""
    ticks = 0
    for node in nodes.running.values():
        fields = Path(f"/proc/{node.process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_S


def asked_of_etcd(nodes: Nodes) -> Counter[str]:
    """How often each of `CALLS` was made."""
    with urllib.request.urlopen(f"http://{nodes.etcd.endpoint}/metrics", timeout=WAIT_S) as answer:
        text = answer.read().decode()
    found: Counter[str] = Counter()
    for line in re.findall(r"^grpc_server_handled_total\{.*$", text, re.MULTILINE):
        method = line.partition('grpc_method="')[2].partition('"')[0]
        if method in CALLS:
            found[CALLS[method]] += int(float(line.rpartition(" ")[2]))
    return found


def measured(count: int, directory: Path) -> dict[str, float]:
    """Measure one round with this number of nodes."""
    with running(directory, count) as nodes:
        admin = AdminClient({"bootstrap.servers": nodes.addresses[1]})
        admin.create_topics([NewTopic(TOPIC, CONTAINERS)])[TOPIC].result(WAIT_S)
        spread(nodes)
        began = processor_s(nodes)
        time.sleep(REST_S)
        at_rest = (processor_s(nodes) - began) / REST_S
        load = Load(list(nodes.addresses.values()), RATE)
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
    return told | {f"etcd_{name}_a_request": calls[name] / requests for name in CALLS.values()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    found: defaultdict[int, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(options.rounds):
        for count in COUNTS:
            directory = Path(tempfile.mkdtemp(prefix="nodes-", dir=os.environ.get("BENCH_DIR")))
            try:
                for name, value in measured(count, directory).items():
                    found[count][name].append(value)
            finally:
                shutil.rmtree(directory, ignore_errors=True)
            print(count, {name: round(values[-1], 2) for name, values in found[count].items()}, flush=True)
    told: dict[str, Any] = {
        str(count): {name: round(statistics.median(values), 3) for name, values in by_name.items()}
        for count, by_name in found.items()
    }
    options.out.write_text(json.dumps({"rate": RATE, "rounds": options.rounds, "nodes": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
