"""The Helm chart: Helm renders it, Kubernetes' own schemas accept it, and what the container is told serves.

Helm is the one that scripts/install-test-tools builds; the schemas come with a package, so nothing is loaded.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from confluent_kafka.admin import AdminClient

from compat_tests.harness.waiting import until
from gateway import __version__
from gateway.config.cluster import DRAIN_MS
from tests.core.cluster.etcd.servers import EtcdServer
from tests.deploy.composing import CREDENTIALS
from tests.gateway.launching import PENSTOCK, Running, http_get, serving
from tests.tier2.minio_server import MinioServer

pytestmark = pytest.mark.slow

REPOSITORY: Final = Path(__file__).resolve().parents[2]
CHART: Final = REPOSITORY / "deploy" / "helm" / "penstock"
KUBERNETES: Final = ("1.27", "1.33", "1.37")
COMMAND_S_MAX: Final = 60

CLUSTER: Final = {"enabled": True, "etcd": ["etcd-0.etcd:2379", "etcd-1.etcd:2379"]}
SHARED: Final = {"tier2": "s3://bucket/prefix"}
SHAPES: Final[dict[str, dict[str, Any]]] = {
    "as it is": {},
    "outside": {"external": {"enabled": True, "host": "kafka.example", "port": 31092, "type": "NodePort"}},
    "cluster": {"cluster": CLUSTER, "config": SHARED},
    "cluster outside": {
        "cluster": CLUSTER | {"nodes": 5, "etcdTls": True, "name": "ours"},
        "config": SHARED,
        "external": {"enabled": True, "host": "kafka-{node}.example"},
    },
    "cluster by ports": {
        "cluster": CLUSTER,
        "config": SHARED,
        "external": {"enabled": True, "host": "kafka.example", "port": 31092, "type": "NodePort"},
    },
    "secured": {
        "config": {
            "listeners": "SASL_SSL://0.0.0.0:9092",
            "ssl.keystore.location": "/run/secrets/penstock/tls/server.pem",
        },
        "secretEnvironment": "penstock-keys",
        "secretFiles": {"tls": "penstock-tls"},
    },
    "everything": {
        "image": {"repository": "images.example/penstock", "tag": "1.2.3", "pullSecrets": [{"name": "images"}]},
        "config": {"num.partitions": 4, "log.retention.ms": 1234567890123, "auto.create.topics.enable": False},
        "external": {"enabled": True, "host": "kafka.example", "annotations": {"a": "b"}},
        "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
        "persistence": {"size": "1.5Ti", "storageClass": "fast", "annotations": {"a": "b"}},
        "podDisruptionBudget": {"maxUnavailable": 1},
        "podLabels": {"team": "data"},
        "nodeSelector": {"disk": "nvme"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "important",
    },
}


@cache
def helm() -> str:
    found = subprocess.run(
        [REPOSITORY / "scripts/install-go-tool", "helm", "--find"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, "helm is missing: scripts/install-test-tools builds it"
    return found.stdout.strip()


def template(values: dict[str, Any], version: str = KUBERNETES[-1]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [helm(), "template", "kafka", CHART, "--kube-version", version, "--values", "-"],
        input=yaml.safe_dump(values),
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
    )


def rendered(values: dict[str, Any], version: str = KUBERNETES[-1]) -> dict[tuple[str, str], dict[str, Any]]:
    """Objects by kind and name."""
    done = template(values, version)
    assert done.returncode == 0, done.stderr
    return {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout) if one}


def pod_of(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = objects["StatefulSet", "kafka-penstock"]["spec"]["template"]
    return pod


def container_of(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    (container,) = pod_of(objects)["spec"]["containers"]
    return dict(container)


def config_of(objects: dict[tuple[str, str], dict[str, Any]]) -> str:
    return str(objects["ConfigMap", "kafka-penstock"]["data"]["penstock.toml"])


def test_lint() -> None:
    """Helm has no complaint."""
    done = subprocess.run(
        [helm(), "lint", "--strict", CHART], capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("shape", SHAPES)
def test_kubernetes_accepts_it(shape: str, version: str) -> None:
    """Of the oldest and the newest release, without a field that Kubernetes does not know."""
    objects = rendered(SHAPES[shape], version)

    assert len(objects) >= 5
    for one in objects.values():
        kubernetes_validate.validate(one, version, strict=True)


def test_the_schemas_find_mistakes() -> None:
    """The check above can fail."""
    stateful = rendered({})["StatefulSet", "kafka-penstock"]
    stateful["spec"]["serviceNames"] = "misspelled"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(stateful, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize(
    "values",
    [
        {"replicas": 3},
        {"persistence": {"size": 50}},
        {"config": {"num.partitions": [1]}},
        {"podDisruptionBudget": {"maxUnavailable": 2}},
        {"external": {"enabled": True}},
        {"cluster": {"enabled": True}, "config": SHARED},
        {"cluster": CLUSTER},
        {"cluster": CLUSTER | {"etcd": ["http://etcd:2379"]}, "config": SHARED},
        {"terminationGracePeriodSeconds": 30, "cluster": CLUSTER, "config": SHARED},
        {"external": {"enabled": True, "host": "kafka.example"}, "cluster": CLUSTER, "config": SHARED},
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    """By name, before anything is installed."""
    done = template(values)

    assert done.returncode != 0
    assert next(iter(values)) in done.stderr


def test_one_process_with_one_volume() -> None:
    """Two processes would want the same data directory; a drain of its node waits until it is allowed."""
    objects = rendered({})
    stateful = objects["StatefulSet", "kafka-penstock"]["spec"]
    (claim,) = stateful["volumeClaimTemplates"]
    (place,) = (
        one["mountPath"] for one in container_of(objects)["volumeMounts"] if one["name"] == claim["metadata"]["name"]
    )
    (data,) = container_of(objects)["env"]
    budget = objects["PodDisruptionBudget", "kafka-penstock"]["spec"]

    assert stateful["replicas"] == 1
    assert ("Service", stateful["serviceName"]) in objects
    assert data["name"] == "PENSTOCK_DATA_DIR"
    assert place in map(str, Path(data["value"]).parents)
    assert budget["maxUnavailable"] == 0
    assert budget["selector"]["matchLabels"].items() <= pod_of(objects)["metadata"]["labels"].items()


def test_nodes_of_a_cluster() -> None:
    """They come and go one by one, each with the time to hand over, as far apart as there is room."""
    objects = rendered(SHAPES["cluster"])
    stateful, pod = objects["StatefulSet", "kafka-penstock"]["spec"], pod_of(objects)
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    *_, seconds = container_of(objects)["lifecycle"]["preStop"]["exec"]["command"]

    assert stateful["replicas"] == 3
    assert "updateStrategy" not in stateful, "Kubernetes' default is one after the other"
    assert objects["PodDisruptionBudget", "kafka-penstock"]["spec"]["maxUnavailable"] == 1
    assert pod["spec"]["terminationGracePeriodSeconds"] >= int(seconds) + 2 * DRAIN_MS / 1000
    assert spread["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def told_of(shape: dict[str, Any], pod: str) -> dict[str, str]:
    """What the container's shell makes of its listeners' addresses, for the pod of that name."""
    container = container_of(rendered(shape))
    command = [word.replace("exec penstock", "exec echo") for word in container["command"]]
    environ = {**os.environ, "POD_NAME": pod}
    done = subprocess.run([*command, *container["args"]], env=environ, capture_output=True, text=True, check=True)
    assert f"--node-id {pod.rpartition('-')[2]}" in done.stdout
    told = done.stdout.rpartition("advertised.listeners=")[2].strip()
    return dict(one.split("://") for one in told.split(","))


@pytest.mark.parametrize(
    ("shape", "outside"), [("cluster outside", "kafka-2.example:9092"), ("cluster by ports", "kafka.example:31094")]
)
def test_each_node_of_a_cluster_is_reached_from_outside(shape: str, outside: str) -> None:
    """By a service of its own, at the address that clients are told."""
    objects = rendered(SHAPES[shape])
    service = objects["Service", "kafka-penstock-external-2"]["spec"]
    (port,) = service["ports"]

    assert told_of(SHAPES[shape], "kafka-penstock-2")["OUTSIDE"] == outside
    assert service["selector"]["statefulset.kubernetes.io/pod-name"] == "kafka-penstock-2"
    assert outside.endswith(f":{port.get('nodePort', port['port'])}")
    assert (
        "Service",
        f"kafka-penstock-external-{objects['StatefulSet', 'kafka-penstock']['spec']['replicas']}",
    ) not in objects


def test_own_listeners_of_a_cluster_are_told_by_pod() -> None:
    """Each by its name and port, without being said for each node."""
    config = SHARED | {"listeners": "SASL_SSL://0.0.0.0:9092, INNER://0.0.0.0:9095"}
    pod = "kafka-penstock-1.kafka-penstock-pods.default.svc.cluster.local"

    told = told_of({"cluster": CLUSTER, "config": config}, "kafka-penstock-1")
    assert told == {"SASL_SSL": f"{pod}:9092", "INNER": f"{pod}:9095"}


def test_services_lead_to_the_pod() -> None:
    """Every service chooses the pod by labels that it has, and names ports of its container."""
    objects = rendered(SHAPES["outside"])
    ports = {one["name"] for one in container_of(objects)["ports"]}
    services = [one["spec"] for (kind, _), one in objects.items() if kind == "Service"]

    assert len(services) == 3
    for service in services:
        assert service["selector"].items() <= pod_of(objects)["metadata"]["labels"].items()
        assert {port["targetPort"] for port in service["ports"]} <= ports


def test_hardening() -> None:
    """The pod is what Kubernetes' strictest standard allows, runs as the image's user, has no key of the cluster."""
    pod = pod_of(rendered({}))["spec"]
    user = re.search(r"^USER (\d+):(\d+)$", (REPOSITORY / "deploy/Dockerfile").read_text(), re.MULTILINE)

    assert user is not None
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]) == (int(user[1]), int(user[2]))
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_another_configuration_is_another_pod() -> None:
    """A change of `config` restarts the process, which reads it at its start only."""
    marks = [pod_of(rendered({"config": config}))["metadata"]["annotations"] for config in ({}, {"num.partitions": 4})]

    assert marks[0]["penstock/config"] != marks[1]["penstock/config"]


def test_whoever_names_listeners_names_all() -> None:
    """The flag would be stronger than the key."""
    assert not any(one.startswith("--listen") for one in container_of(rendered(SHAPES["secured"]))["args"])


def test_configuration_is_read_as_written() -> None:
    """Large numbers, truth values and text with quotes come out of the file as they went in."""
    config = {"log.retention.ms": 1234567890123, "auto.create.topics.enable": False, "tier2": 's3://a/"<b>&'}

    assert tomllib.loads(config_of(rendered({"config": config}))) == config


def test_the_version_is_the_gateways() -> None:
    """The image that is named by default is that of this release."""
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
    assert container_of(rendered({}))["image"] == f"penstock:{__version__}"


def test_its_container_serves(tmp_path: Path) -> None:
    """With its arguments and its file, on other ports, clients are told the service's name, and every probe passes."""
    objects = rendered({"config": {"num.partitions": 3}})
    container = container_of(objects)
    file = tmp_path / "penstock.toml"
    file.write_text(config_of(objects))
    serve, config, listen = container["args"]
    told = listen.rpartition("=")[2]

    assert (serve, config.partition("=")[0]) == ("serve", "--config")
    assert ("Service", told.partition(".")[0]) in objects
    arguments = ("--config", str(file), "--listen", f"127.0.0.1:0={told}", "--http", "127.0.0.1:0")
    with serving(tmp_path / "gateway", *arguments) as gateway:
        bound = re.search(r"127\.0\.0\.1:\d+", gateway.ready()["kafka"][0])
        assert bound is not None
        (broker,) = AdminClient({"bootstrap.servers": bound[0]}).list_topics(timeout=30).brokers.values()
        assert f"{broker.host}:{broker.port}" == told
        http = gateway.ready()["http"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] == "http"
            assert http_get(http, container[probe]["httpGet"]["path"])[0] == 200, probe
        assert gateway.terminate() == 0


def test_the_containers_of_a_cluster_serve(
    tmp_path: Path, own_etcd: EtcdServer, own_minio: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pods' commands, with their arguments and file, on ports of this test: clients are told both, all is well."""
    objects = rendered({"cluster": CLUSTER, "config": SHARED | {"tier2.endpoint": own_minio.endpoint}})
    container = container_of(objects)
    file = tmp_path / "penstock.toml"
    file.write_text(config_of(objects))
    here = {
        "--config=/etc/penstock/penstock.toml": f"--config={file}",
        "--cluster=etcd://etcd-0.etcd:2379,etcd-1.etcd:2379/default-kafka-penstock": f"--cluster=etcd://{own_etcd.endpoint}/t",
        "--set=listeners=INSIDE://0.0.0.0:9092": "--set=listeners=INSIDE://127.0.0.1:0",
    }
    serve, *arguments = (here.get(word, word) for word in container["args"])
    assert serve == "serve"
    assert here.keys() <= set(container["args"])
    for name, value in (*CREDENTIALS.items(), ("PATH", f"{Path(PENSTOCK).parent}:{os.environ['PATH']}")):
        monkeypatch.setenv(name, value)
    pods = [f"kafka-penstock-{n}" for n in range(2)]
    with contextlib.ExitStack() as ends:
        nodes: list[Running] = []
        for pod in pods:
            monkeypatch.setenv("POD_NAME", pod)
            node = Running(tmp_path / pod, *arguments, "--http", "127.0.0.1:0", command=container["command"])
            ends.callback(node.process.wait)
            ends.callback(node.process.kill)
            nodes.append(node)
        http = [node.ready()["http"] for node in nodes]
        bound = re.search(r"127\.0\.0\.1:\d+", nodes[0].ready()["kafka"][0])
        assert bound is not None
        brokers = AdminClient({"bootstrap.servers": bound[0]}).list_topics(timeout=30).brokers
        told = {node_id: f"{one.host}:{one.port}" for node_id, one in brokers.items()}
        service = "kafka-penstock-pods.default.svc.cluster.local"
        assert told == {n: f"{pod}.{service}:9092" for n, pod in enumerate(pods)}
        paths = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")}
        ready = container["readinessProbe"]["httpGet"]["path"]
        for address in http:
            for probe, path in paths.items():
                assert http_get(address, path)[0] == 200, probe
            until(lambda address=address: http_get(address, ready)[0] == 200, within_s=30, what="it has a container")
        assert [node.terminate() for node in nodes] == [0, 0]
