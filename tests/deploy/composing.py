"""The files of `deploy/compose`, as docker-compose understands them."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER

REPOSITORY: Final = Path(__file__).resolve().parents[2]
COMPOSED: Final = REPOSITORY / "deploy" / "compose"
FILES: Final = {
    "alone": {"penstock"},
    "minio": {"minio", "penstock", "kafka-ui"},
    "cluster": {"etcd", "minio", "penstock-1", "penstock-2", "penstock-3"},
    "secured": {"penstock"},
    "monitoring": {"penstock", "prometheus", "grafana"},
}
"""The services of each file of `COMPOSED`."""
CREDENTIALS: Final = {"PENSTOCK_TIER2_ACCESS_KEY": ROOT_USER, "PENSTOCK_TIER2_SECRET_KEY": ROOT_PASSWORD}
PASSWORDS: Final = CREDENTIALS | {
    "GRAFANA_PASSWORD": "of-this-test",
    "PENSTOCK_SECRETS": "/of/this/test",
    "PENSTOCK_SECRETS_GROUP": "1000",
}
OPEN: Final = FILES.keys() - {"secured"}
"""Files whose gateways ask nobody who they are."""
COMMAND_S_MAX: Final = 120


def compose(file: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PENSTOCK_", "GRAFANA_"))}
    return subprocess.run(
        ["docker-compose", "--file", COMPOSED / f"{file}.yaml", "config", *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
        env=kept | environ,
    )


@cache
def services_of(file: str) -> dict[str, Any]:
    """As docker-compose understands them; not to be changed."""
    done = compose(file, **PASSWORDS)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return found


def gateways_of(file: str) -> dict[str, Any]:
    """Services that are a Penstock, by name."""
    return {name: service for name, service in services_of(file).items() if service["image"] == "penstock"}
