"""A command imports only the modules that it needs: a gateway is ready in a second."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

pytestmark = pytest.mark.slow

PROGRAM: Final = """
import sys
from gateway.cli.app import main
sys.argv = ["penstock", {arguments}]
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print("MODULES", *sorted(name for name, module in sys.modules.items() if module is not None))
"""

SERVING: Final = ("gateway.process", "gateway.broker", "gateway.http", "gateway.network", "gateway.apis", "core.store")
"""Our own modules that only a gateway that serves needs."""
LIBRARIES: Final = (
    *("kio", "uvicorn", "starlette", "prometheus_client", "uvloop", "rocksdict", "minio", "urllib3"),
    *("confluent_kafka", "hdrh", "cramjam", "kafka"),
)


def loaded_by(*arguments: str) -> set[str]:
    """The modules that are loaded when the command has ended, and all packages that hold one."""
    program = PROGRAM.format(arguments=", ".join(map(repr, arguments)))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    names = done.stdout.splitlines()[-1].split()
    assert names[0] == "MODULES"
    return set(names[1:])


def below(modules: set[str], *packages: str) -> list[str]:
    """The modules that are one of these packages, or lie in one."""
    return sorted(name for name in modules if any(name == each or name.startswith(f"{each}.") for each in packages))


def test_version() -> None:
    """`version` loads only the command line's of our own modules, and only typer of the libraries."""
    modules = loaded_by("version")

    assert not below(modules, "core", "tier2", "rich", "pydantic_settings", *LIBRARIES)
    assert {name.split(".")[1] for name in modules if name.startswith("gateway.")} == {"cli", "exits"}


def test_tools() -> None:
    """A tool's help needs no client library, and none of the other tools."""
    modules = loaded_by("topics", "--help")

    assert not below(modules, "core", "tier2", "pydantic_settings", *SERVING, *LIBRARIES)
    assert not below(modules, "gateway.cli.kafka.groups", "gateway.cli.bench", "gateway.cli.tier2")


@pytest.mark.parametrize("arguments", [("config",), ("config", "--json")])
def test_config(arguments: tuple[str, ...]) -> None:
    """`config` imports the model of the configuration and none of the parts that it configures."""
    assert not below(loaded_by(*arguments), *SERVING, *LIBRARIES)


def test_room_faces() -> None:
    """A room is entered by its modules: importing the package itself imports nothing of it."""
    rooms = (
        *("config", "dispatch", "fetching", "groups", "groups.classic", "groups.offsets"),
        *("http", "kafka_configs", "long_term", "metrics", "network", "process", "records", "topics"),
        *("transactions", "wire", "cli", "cli.client", "cli.kafka"),
    )
    names = ", ".join(f"gateway.{room}" for room in rooms)
    program = f"import sys, {names}\nprint(*sorted(name for name in sys.modules if name.startswith('gateway')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert set(done.stdout.split()) == {"gateway"} | {f"gateway.{room}" for room in rooms}
