"""What `make package` makes would pass on a public index, and serves where only it and its dependencies are.

Nothing is loaded from anywhere: the fresh environment finds its dependencies where this one has them.
"""

from __future__ import annotations

import email
import email.message
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
import trove_classifiers
from packaging.requirements import Requirement

from gateway import __version__
from tests.gateway.launching import http_get, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPOSITORY: Final = Path(__file__).resolve().parents[2]
TWINE: Final = (sys.executable, "-m", "twine", "check", "--strict")
COMMAND_S_MAX: Final = 200
PACKAGES: Final = ("gateway", "core", "tier2")


def run(command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """Away from this checkout, so that it is not what is imported."""
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=COMMAND_S_MAX,
        check=False,
        cwd="/",
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both packages."""
    directory = tmp_path_factory.mktemp("dist")
    done = run([REPOSITORY / "scripts/package", directory])
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def wheel(made: Path) -> Path:
    (path,) = made.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"penstock-{__version__}.dist-info/METADATA"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a fresh environment with the wheel."""
    place = tmp_path_factory.mktemp("fresh")
    venv.create(place, with_pip=False, symlinks=True)
    fresh = place / "bin" / "python"
    done = run([sys.executable, "-m", "pip", "--python", fresh, "install", "--no-deps", "--no-index", wheel])
    assert done.returncode == 0, done.stderr
    # A path file's own path files are not read, so the editable installation of this checkout stays out.
    purelib = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (purelib / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return fresh


def test_an_index_takes_them(made: Path, wheel: Path) -> None:
    """Twine finds no fault with either; the wheel's name has a glibc, without which an index refuses native code."""
    packages = sorted(made.iterdir())

    assert [path.name.rpartition(".")[2] for path in packages] == ["whl", "gz"]
    done = run([*TWINE, *packages])
    assert done.returncode == 0, done.stdout
    if sys.platform == "linux":
        assert "manylinux" in wheel.name


def test_twine_finds_faults(made: Path, tmp_path: Path) -> None:
    """The check above can fail: a description that is not text of its kind is refused."""
    (sdist,) = made.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    info = (source / "PKG-INFO").read_text()
    (source / "PKG-INFO").write_text(
        info.partition("\n\n")[0].replace("text/markdown", "text/x-rst") + "\n\n.. none::\n"
    )
    broken = tmp_path / sdist.name
    with tarfile.open(broken, "w:gz") as archive:
        archive.add(source, source.name)

    assert run([*TWINE, broken]).returncode == 1


def test_metadata(metadata: email.message.Message) -> None:
    """An index knows every classifier, and the license is told once, as an expression."""
    classifiers = metadata.get_all("Classifier", [])

    assert len(classifiers) >= 10
    assert set(classifiers) <= trove_classifiers.classifiers
    assert metadata["License-Expression"] == "Apache-2.0"
    assert not any(one.startswith("License ::") for one in classifiers)
    assert metadata["Requires-Python"] == ">=3.11"


def test_links(metadata: email.message.Message) -> None:
    """The description has no link into a tree that readers of an index lack, and nothing names a private place."""
    description = str(metadata.get_payload())
    told = [*metadata.get_all("Project-URL", []), metadata["Home-page"] or ""]
    hosts = re.findall(r"https?://([^/:\s]+)", "\n".join([description, *told]))

    assert len(description) > 500
    assert re.findall(r"\]\((?!https://)", description) == []
    assert set(hosts) <= {"localhost", "kafka.apache.org"}


@pytest.mark.parametrize("package", PACKAGES)
def test_typed(wheel: Path, package: str) -> None:
    """Type checkers of users read our annotations, and those of the native extension."""
    names = zipfile.ZipFile(wheel).namelist()

    assert f"{package}/py.typed" in names
    natives = ("records/_native", "network/_draining", "network/_sessions")
    assert {f"gateway/{native}.pyi" for native in natives} <= set(names)


def test_nothing_else_is_installed(wheel: Path) -> None:
    """Tests and benchmarks are for developers."""
    folders = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}

    assert folders == {*PACKAGES, f"penstock-{__version__}.dist-info"}


def test_requirements_are_met(python: Path, metadata: email.message.Message) -> None:
    """The tests ran with versions that the package asks for, the bench extra's too."""
    told = (Requirement(line) for line in metadata.get_all("Requires-Dist", []))
    asked = [one for one in told if one.marker is None or one.marker.evaluate({"extra": "bench"})]
    names = json.dumps([one.name for one in asked])
    versions = f"import importlib.metadata as of, json; print(json.dumps({{n: of.version(n) for n in {names}}}))"
    installed = json.loads(run([python, "-c", versions]).stdout)

    assert len(asked) >= 20
    assert [str(one) for one in asked if installed[one.name] not in one.specifier] == []


def test_serves(python: Path, tmp_path: Path) -> None:
    """In the fresh environment the wheel's command, with its native extension, takes records and gives them back."""
    penstock = str(python.parent / "penstock")
    shown = "import gateway.records.native_walk as native; print(native.__file__)"
    assert run([python, "-c", shown]).stdout.startswith(str(python.parents[1]))
    assert run([penstock, "version"]).stdout.split()[:2] == ["penstock", __version__]

    command = ("env", "--unset=PYTHONPATH", penstock)
    with serving(tmp_path, "--http", "127.0.0.1:0", command=command) as gateway:
        ready = gateway.ready()
        at = ("--bootstrap", ready["kafka"][0])
        lines = tmp_path / "lines"
        lines.write_text("hello\n")
        for words in (("topics", "create", "greetings"), ("produce", "greetings", str(lines))):
            done = run([penstock, *words, *at])
            assert done.returncode == 0, done.stderr
        read = run([penstock, "consume", "greetings", "--from", "start", "--count", "1", *at])
        measured = run([penstock, "bench", *at, "--records", "100", "--warmup", "0", "--json", str(tmp_path / "total")])
        status, page = http_get(ready["http"], "/")
        assert gateway.terminate() == 0

    assert "hello" in read.stdout, read.stderr
    assert measured.returncode == 0, measured.stderr
    assert json.loads((tmp_path / "total").read_text())
    assert status == 200
    assert "<html" in page
