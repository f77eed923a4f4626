"""`compose/cluster.yaml`: its three commands, with its variables, are one cluster that goes on without any of them.

etcd and MinIO are processes of this test. Ports that the file publishes are ports of the test's choice.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.core.cluster.etcd.servers import EtcdServer
from tests.deploy.composing import gateways_of
from tests.gateway.launching import Running, free_ports
from tests.tier2.minio_server import MinioServer

pytestmark = pytest.mark.slow

PARTITIONS: Final = 6
REST_S: Final = 90.0


def published(service: Mapping[str, Any]) -> dict[str, str]:
    """The host's port of each port of the container."""
    found = (re.search(r":(\d+):(\d+)", str(port)) for port in service["ports"])
    return {one[2]: one[1] for one in found if one is not None}


def environment_of(service: Mapping[str, Any], ports: Mapping[str, str], etcd: EtcdServer, endpoint: str) -> Any:
    """The file's variables, for a process on this machine: `ports` has the test's port for each of the host's."""
    given = dict(service["environment"])
    told = dict(one.split("://") for one in given["PENSTOCK_ADVERTISED_LISTENERS"].split(","))
    host, _, port = told["HOST"].rpartition(":")
    assert port == published(service)["9092"], "a client would be told a port that is another node's"
    told["HOST"] = f"{host}:{ports[port]}"
    given["PENSTOCK_ADVERTISED_LISTENERS"] = ",".join(f"{name}://{address}" for name, address in told.items())
    listeners = given["PENSTOCK_LISTENERS"].replace("0.0.0.0:9092", f"127.0.0.1:{ports[port]}")
    given["PENSTOCK_LISTENERS"] = listeners.replace("0.0.0.0:19092", "127.0.0.1:0")
    given["PENSTOCK_CLUSTER"] = given["PENSTOCK_CLUSTER"].replace("etcd:2379", str(etcd.endpoint))
    assert given["PENSTOCK_TIER2_ENDPOINT"] == "http://minio:9000"
    given["PENSTOCK_TIER2_ENDPOINT"] = endpoint
    return given


def brokers(address: str) -> set[str]:
    found = AdminClient({"bootstrap.servers": address}).list_topics(timeout=REST_S).brokers.values()
    return {f"{one.host}:{one.port}" for one in found}


def test_a_cluster(tmp_path: Path, own_etcd: EtcdServer, own_minio: MinioServer) -> None:
    """Clients of either listener are told all three; with one killed, every partition takes records."""
    services = gateways_of("cluster")
    hosts = sorted(published(service)["9092"] for service in services.values())
    first = free_ports(len(hosts))
    ports = {host: str(first + n) for n, host in enumerate(hosts)}
    nodes: dict[str, Running] = {}
    with contextlib.ExitStack() as ends:
        for name, service in services.items():
            serve, node_id = service["command"]
            assert serve == "serve"
            with pytest.MonkeyPatch.context() as environ:
                for key, value in environment_of(service, ports, own_etcd, own_minio.endpoint).items():
                    environ.setenv(key, value)
                nodes[name] = Running(tmp_path / name, node_id, "--http", "127.0.0.1:0")
            ends.callback(nodes[name].process.wait)
            ends.callback(nodes[name].process.kill)
        network = {re.search(r"127\.0\.0\.1:\d+", node.ready()["kafka"][1])[0]: name for name, node in nodes.items()}  # type: ignore[index]
        for address in network:
            assert brokers(address) == {f"{name}:19092" for name in services}
        outside = {f"localhost:{port}" for port in ports.values()}
        for address in outside:
            assert brokers(address) == outside

        admin = AdminClient({"bootstrap.servers": ",".join(outside)})
        admin.create_topics([NewTopic("t", PARTITIONS)])["t"].result(REST_S)
        victim = nodes["penstock-2"].process
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        producer = Producer({"bootstrap.servers": ",".join(outside), "message.timeout.ms": int(REST_S * 1_000)})
        failed: list[str] = []
        for partition in range(PARTITIONS):
            producer.produce(
                "t",
                b"v",
                partition=partition,
                on_delivery=lambda error, _: failed.append(str(error)) if error else None,
            )
        assert producer.flush(REST_S) == 0
        assert failed == []
        assert nodes["penstock-1"].terminate() == 0
        assert nodes["penstock-3"].terminate() == 0
