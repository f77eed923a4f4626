"""Alerts, Prometheus and Grafana of `deploy/`: Prometheus' own tool runs them, a gateway has what they name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.core.cluster.etcd.servers import EtcdServer
from tests.gateway.launching import http_get, serving
from tests.test_documents import anchors

pytestmark = pytest.mark.slow

REPOSITORY: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = REPOSITORY / "deploy"
PROMETHEUS: Final = DEPLOY / "prometheus"
PROVISIONING: Final = DEPLOY / "grafana" / "provisioning"
COMMAND_S_MAX: Final = 120


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@cache
def rules() -> dict[str, dict[str, Any]]:
    """Alerts by their names."""
    return {rule["alert"]: rule for group in read(PROMETHEUS / "alerts.yaml")["groups"] for rule in group["rules"]}


@cache
def services() -> dict[str, Any]:
    found: dict[str, Any] = read(DEPLOY / "compose" / "monitoring.yaml")["services"]
    return found


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [REPOSITORY / "scripts/install-go-tool", "promtool", "--find"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, "promtool is missing: scripts/install-test-tools builds it"
    return subprocess.run(
        [found.stdout.strip(), *arguments], capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
    )


def test_prometheus_accepts_its_configuration() -> None:
    """The configuration, and the rules that it names."""
    done = promtool("check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yaml")

    assert done.returncode == 0, done.stderr
    assert f"{len(rules())} rules found" in done.stdout


def test_alerts_fire_and_are_silent(tmp_path: Path) -> None:
    """Each alert does both, at the numbers of its cases; with another threshold the cases fail."""
    cases = [case["name"] for case in read(PROMETHEUS / "alerts.test.yaml")["tests"]]
    assert cases == [f"{name} {what}" for name in rules() for what in ("fires", "is silent")]

    done = promtool("test", "rules", PROMETHEUS / "alerts.test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr

    other = shutil.copytree(PROMETHEUS, tmp_path / "other")
    text = (other / "alerts.yaml").read_text()
    (other / "alerts.yaml").write_text(text.replace("> 0.75", "> 0.85"))
    done = promtool("test", "rules", other / "alerts.test.yaml")
    assert done.returncode != 0
    assert "PenstockLogFillsUp" in done.stdout + done.stderr


def test_gateways_have_the_metrics_of_the_alerts(tmp_path: Path, own_etcd: EtcdServer) -> None:
    """A misspelled name would never fire: an idle gateway, or an idle node of a cluster, has each metric, with the
    labels that are shown."""
    node = ("--cluster", f"etcd://{own_etcd.endpoint}/c", "--node-id", "1", "--tier2", f"file:{tmp_path / 'bucket'}")
    texts = [metrics_of(tmp_path / "alone"), metrics_of(tmp_path / "node", *node)]
    samples = [s for text in texts for family in text_string_to_metric_families(text) for s in family.samples]
    declared = {name for text in texts for name in re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)}
    labels = {sample.name: set(sample.labels) for sample in samples}

    for name, rule in rules().items():
        named = re.findall(r"\bpenstock_\w+", rule["expr"])
        assert named or name == "PenstockDown"
        assert set(named) <= declared, name
        shown = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) - {"instance"}
        for metric in named:
            assert shown <= labels.get(metric, shown), name


def metrics_of(directory: Path, *arguments: str) -> str:
    with serving(directory, "--http", "127.0.0.1:0", *arguments) as gateway:
        _, text = http_get(gateway.ready()["http"], "/metrics")
        assert gateway.terminate() == 0
    return text


@pytest.mark.parametrize("name", rules())
def test_alerts_say_what_to_do(name: str) -> None:
    """An alert names a heading of the runbook, and how soon it must be looked at."""
    rule = rules()[name]
    page, _, anchor = rule["annotations"]["runbook"].partition("#")

    assert anchor in anchors(REPOSITORY / page)
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert {"summary", "description"} < rule["annotations"].keys()


def test_prometheus_finds_penstock() -> None:
    """It scrapes the service by its name, at the port of the image's HTTP server."""
    (job,) = read(PROMETHEUS / "prometheus.yaml")["scrape_configs"]
    (target,) = (one for group in job["static_configs"] for one in group["targets"])
    listen = re.search(r"PENSTOCK_HTTP_LISTEN=\S+?:(\d+)", (DEPLOY / "Dockerfile").read_text())

    assert listen is not None
    assert target == f"penstock:{listen[1]}"
    assert target.split(":")[0] in services()
    assert (
        f"../prometheus:{Path(services()['prometheus']['command'][0].split('=')[1]).parent}:ro"
        in (services()["prometheus"]["volumes"])
    )


def test_grafana_is_provisioned() -> None:
    """The source of data is Prometheus' service, and the dashboard is mounted where Grafana looks for dashboards."""
    (source,) = read(PROVISIONING / "datasources/penstock.yaml")["datasources"]
    (provider,) = read(PROVISIONING / "dashboards/penstock.yaml")["providers"]
    mounts = dict(volume.split(":")[:2] for volume in services()["grafana"]["volumes"])
    dashboard = json.loads((DEPLOY / "grafana/penstock.json").read_text())

    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"], "the dashboard's variable takes the default"
    assert mounts["../grafana/provisioning"] == "/etc/grafana/provisioning"
    assert Path(mounts["../grafana/penstock.json"]).parent == Path(provider["options"]["path"])
    assert dashboard["uid"] == "penstock"
