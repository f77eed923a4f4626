"""The statements of `deploy/` about images, checked against this repository without a container engine.

The Dockerfile's own commands are run where they can be: the build's on the context that `.dockerignore` leaves, the
health check against a gateway that was started as `compose.yaml` starts it.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.gateway.launching import run, serving
from tests.tier2.minio_server import ROOT_PASSWORD, ROOT_USER, MinioServer

pytestmark = pytest.mark.slow

REPOSITORY: Final = Path(__file__).resolve().parents[2]
DOCKERFILE: Final = REPOSITORY / "deploy" / "Dockerfile"
COMPOSE: Final = REPOSITORY / "deploy" / "compose.yaml"
CREDENTIALS: Final = {"PENSTOCK_TIER2_ACCESS_KEY": ROOT_USER, "PENSTOCK_TIER2_SECRET_KEY": ROOT_PASSWORD}
COMMAND_S_MAX: Final = 120
YAML_READER: Final = "/usr/bin/python3"

Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """The Dockerfile's, each with its arguments on one line."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(words[0], words[1]) for line in text.splitlines() if (words := line.split(maxsplit=1))]


def stages() -> list[list[Instruction]]:
    found: list[list[Instruction]] = []
    for instruction in instructions():
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def arguments_of(stage: Sequence[Instruction], name: str) -> list[str]:
    return [arguments for instruction, arguments in stage if instruction == name]


def settings_of(stage: Sequence[Instruction]) -> dict[str, str]:
    """The variables that ENV sets."""
    return dict(word.split("=", 1) for arguments in arguments_of(stage, "ENV") for word in shlex.split(arguments))


def context() -> Iterator[Path]:
    """Files that `.dockerignore` leaves: it refuses everything, then lets some names in."""
    lines = (REPOSITORY / ".dockerignore").read_text().split("\n")
    allowed = [line[1:] for line in lines if line.startswith("!")]
    refused = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    assert "*" in lines
    for name in allowed:
        place = REPOSITORY / name
        for path in place.rglob("*") if place.is_dir() else [place]:
            parts = path.relative_to(REPOSITORY).parts
            if path.is_file() and not any(fnmatch.fnmatch(part, pattern) for part in parts for pattern in refused):
                yield path


def compose(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PENSTOCK_")}
    return subprocess.run(
        ["docker-compose", "--file", COMPOSE, "config", *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
        env=kept | environ,
    )


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """As docker-compose understands them."""
    done = compose("--format", "json", **CREDENTIALS)
    if not done.stdout.startswith("{"):
        # The first generation prints YAML only, and is a Python program that brings what reads it.
        plain = compose(**CREDENTIALS)
        assert plain.returncode == 0, plain.stderr
        convert = [YAML_READER, "-c", "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"]
        done = subprocess.run(
            convert, input=plain.stdout, capture_output=True, text=True, check=True, timeout=COMMAND_S_MAX
        )
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def test_compose_is_valid(services: dict[str, Any]) -> None:
    """docker-compose accepts the file; every service says when it is well, and every image is pinned."""
    assert services.keys() == {"minio", "penstock", "kafka-ui"}
    for name, service in services.items():
        if name != "penstock":
            assert "healthcheck" in service
            assert re.search(r":(v|RELEASE\.)\d", service["image"]), "no image of today's choice"
        assert all("127.0.0.1" in str(port) for port in service["ports"]), "there is no authentication yet"


def test_compose_asks_for_credentials() -> None:
    """None are in the file: without them nothing starts, and it is said which are missing."""
    done = compose("--quiet")

    assert done.returncode != 0
    assert "secret key" in done.stderr or "access key" in done.stderr


def test_image_runs_as_nobody_special() -> None:
    """The last stage has no build tools, a user of its own, a stop signal and a health check."""
    stage = stages()[-1]

    assert arguments_of(stage, "USER") == ["10001:10001"]
    assert arguments_of(stage, "STOPSIGNAL") == ["SIGTERM"]
    assert len(arguments_of(stage, "HEALTHCHECK")) == 1
    assert not any("pip" in command for command in arguments_of(stage, "RUN"))
    assert arguments_of(stage, "VOLUME") == [settings_of(stage)["PENSTOCK_DATA_DIR"]]


def test_settings_of_the_image_are_known() -> None:
    """Each PENSTOCK_ variable of the image is a key, and the command line is one."""
    stage = stages()[-1]
    given = {key: value for key, value in settings_of(stage).items() if key.startswith("PENSTOCK_")}

    shown = run("config", "--json", environ=given)
    assert shown.returncode == 0, shown.stderr
    values = {row["key"]: row["value"] for row in json.loads(shown.stdout)}
    assert values["data.dir"] == "/var/lib/penstock"
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert [scripts[name] for (name,) in map(json.loads, arguments_of(stage, "ENTRYPOINT"))] == ["gateway.cli.app:main"]
    assert json.loads(arguments_of(stage, "CMD")[0])[0] == "serve"


def test_build(tmp_path: Path) -> None:
    """The files that the first stage copies are in the context, and make a package whose command runs."""
    build = stages()[0]
    there = set(context())
    for arguments in arguments_of(build, "COPY"):
        *sources, target = arguments.split()
        for source in sources:
            place = REPOSITORY / source
            copied = [path for path in there if path == place or place in path.parents]
            assert copied, f"{source} is not in the context"
            for path in copied:
                destination = tmp_path / "src" / target / path.relative_to(place if place.is_dir() else place.parent)
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, destination)
    (command,) = [command for command in arguments_of(build, "RUN") if command.endswith("--no-deps .")]
    words = shlex.split(command)
    words[words.index("--python") + 1] = sys.executable
    words[0] = sys.executable

    subprocess.run([*words, "--target", tmp_path / "out"], cwd=tmp_path / "src", check=True, timeout=COMMAND_S_MAX)

    made = [sys.executable, "-c", "import gateway.cli.app; print(gateway.__file__); gateway.cli.app.main()", "version"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "out")}
    done = subprocess.run(made, capture_output=True, text=True, check=True, env=environ, cwd=tmp_path)
    assert done.stdout.startswith(str(tmp_path / "out"))
    installed = {path.name for path in (tmp_path / "out").iterdir() if not path.name.endswith(".dist-info")}
    assert installed - {"bin"} == {"core", "gateway", "tier2"}  # `bench` and `tests` are for developers
    bare = "import sys; sys.path.append(sys.argv.pop(1)); import gateway.bench.command as tool; print(tool.__file__)"
    # Without `site`, so that the tool of this checkout is not found.
    found = subprocess.run(
        [sys.executable, "-S", "-c", bare, sysconfig.get_paths()["purelib"]],
        capture_output=True,
        text=True,
        check=True,
        env=environ,
        cwd=tmp_path,
    )
    assert found.stdout.startswith(str(tmp_path / "out"))
    walks = [sys.executable, "-c", "import gateway.records.native_walk as native; print(native.__file__)"]
    native = subprocess.run(walks, capture_output=True, text=True, check=True, env=environ, cwd=tmp_path)
    assert native.stdout.startswith(str(tmp_path / "out"))


def test_serves_as_composed(services: dict[str, Any], tmp_path: Path, own_minio: MinioServer) -> None:
    """The composed command, on ports and an endpoint of this test, comes up and is well by the image's own check."""
    arguments = [re.sub(r":\d+=", ":0=", word) for word in services["penstock"]["command"]]
    assert arguments.pop(0) == "serve"
    endpoint = arguments.index("--tier2-endpoint=http://minio:9000")
    arguments[endpoint] = f"--tier2-endpoint={own_minio.endpoint}"
    health = json.loads(arguments_of(stages()[-1], "HEALTHCHECK")[0].split("CMD", 1)[1])

    with pytest.MonkeyPatch.context() as environ:
        for name, value in services["penstock"]["environment"].items():
            environ.setenv(name, value)
        with serving(tmp_path / "gateway", *arguments, "--http", "127.0.0.1:0") as gateway:
            address = gateway.ready()["http"]
            subprocess.run(
                [word.replace("127.0.0.1:9094", address) for word in health], check=True, timeout=COMMAND_S_MAX
            )
            assert gateway.terminate() == 0
