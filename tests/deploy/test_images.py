"""The statements of `deploy/` about images, checked against this repository without a container engine.

The Dockerfile's own commands are run where they can be: the build's on the context that `.dockerignore` leaves, the
health check against a gateway that was started as `compose/minio.yaml` starts it, and the image's promise to write its
volume only where everything else is read-only.
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
from typing import Final

import pytest

from tests.deploy.composing import FILES, OPEN, compose, gateways_of, services_of
from tests.gateway.launching import PENSTOCK, run, serving
from tests.tier2.minio_server import MinioServer

pytestmark = pytest.mark.slow

REPOSITORY: Final = Path(__file__).resolve().parents[2]
DOCKERFILE: Final = REPOSITORY / "deploy" / "Dockerfile"
COMMAND_S_MAX: Final = 120

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


@pytest.mark.parametrize("file", FILES)
def test_compose_is_valid(file: str) -> None:
    """docker-compose accepts the file; every service says when it is well, and every image is pinned."""
    services = services_of(file)

    assert services.keys() == FILES[file]
    gateways = gateways_of(file)
    for name, service in services.items():
        if name not in gateways:
            assert "healthcheck" in service
            assert re.search(r":(v|RELEASE\.)?\d", service["image"]), "no image of today's choice"
        if file in OPEN:
            published = service.get("ports", [])
            assert all("127.0.0.1" in str(port) for port in published), "nobody is asked who they are"


@pytest.mark.parametrize("file", FILES)
def test_penstock_writes_its_volume_only(file: str) -> None:
    """Whoever breaks in finds nothing to write beside the data, and no capability."""
    gateways = gateways_of(file)

    assert gateways
    for penstock in gateways.values():
        assert penstock["read_only"] is True
        assert penstock["cap_drop"] == ["ALL"]
        assert penstock["security_opt"] == ["no-new-privileges:true"]
        (volume,) = [one for one in penstock["volumes"] if not str(one).endswith(":ro")]
        assert settings_of(stages()[-1])["PENSTOCK_DATA_DIR"] in str(volume)


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("minio", "secret key|access key"),
        ("secured", "make-secrets"),
        ("cluster", "secret key|access key"),
        ("monitoring", "password"),
    ],
)
def test_compose_asks_for_credentials(file: str, what: str) -> None:
    """None are in the file: without them nothing starts, and it is said which are missing."""
    done = compose(file, "--quiet")

    assert done.returncode != 0
    assert re.search(what, done.stderr)


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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make file systems read-only")
def test_read_only_root(tmp_path: Path) -> None:
    """Where every file system but the data's is read-only, it starts, takes records, gives them back and stops."""
    mounts = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    kept = ("/proc", "/sys", "/dev")
    closed = [place for place in mounts if not place.startswith(kept) and "\\" not in place]
    steps = [f"mount --bind {shlex.quote(str(tmp_path))} {shlex.quote(str(tmp_path))}"]
    steps += [f"mount -o remount,bind,ro {shlex.quote(place)}" for place in closed]
    steps += [f"if touch {place}/written 2>/dev/null; then exit 99; fi" for place in ("", "/tmp", "/var/tmp")]
    steps.append('exec "$@"')
    command = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(steps), "sh", PENSTOCK)

    with serving(tmp_path, "--http", "127.0.0.1:0", command=command) as gateway:
        kafka = gateway.ready()["kafka"][0]
        lines = tmp_path / "lines"
        lines.write_text("hello\n")
        assert run("topics", "create", "greetings", "--bootstrap", kafka).returncode == 0
        assert run("produce", "greetings", str(lines), "--compression", "zstd", "--bootstrap", kafka).returncode == 0
        read = run("consume", "greetings", "--from", "start", "--count", "1", "--bootstrap", kafka)
        assert gateway.terminate() == 0

    assert "hello" in read.stdout, read.stderr
    assert "rror" not in gateway.err.read_text()


def test_serves_as_composed(tmp_path: Path, own_minio: MinioServer) -> None:
    """The composed command, on ports and an endpoint of this test, comes up and is well by the image's own check."""
    penstock = services_of("minio")["penstock"]
    arguments = [re.sub(r":\d+=", ":0=", word) for word in penstock["command"]]
    assert arguments.pop(0) == "serve"
    endpoint = arguments.index("--tier2-endpoint=http://minio:9000")
    arguments[endpoint] = f"--tier2-endpoint={own_minio.endpoint}"
    health = json.loads(arguments_of(stages()[-1], "HEALTHCHECK")[0].split("CMD", 1)[1])

    with pytest.MonkeyPatch.context() as environ:
        for name, value in penstock["environment"].items():
            environ.setenv(name, value)
        with serving(tmp_path / "gateway", *arguments, "--http", "127.0.0.1:0") as gateway:
            address = gateway.ready()["http"]
            subprocess.run(
                [word.replace("127.0.0.1:9094", address) for word in health], check=True, timeout=COMMAND_S_MAX
            )
            assert gateway.terminate() == 0
