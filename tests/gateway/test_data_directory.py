"""The data directory: one owner, one cluster id, formats that are known."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from core.errors import AlreadyLocked
from gateway.data_directory import (
    FORMAT,
    BadIdentity,
    DataDirectory,
    NewerFormat,
    UnusableDirectory,
    new_cluster_id,
)
from gateway.disks import FORMAT as SEVERAL_FORMAT
from gateway.durable_files import write_atomically


def identity(directory: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((directory / "penstock.json").read_text())
    return found


def change(directory: Path, **fields: object) -> None:
    (directory / "penstock.json").write_text(json.dumps(identity(directory) | fields))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A directory that an earlier run has made and let go."""
    DataDirectory.acquire(tmp_path / "data", "0.1.0").release()
    return tmp_path / "data"


def test_a_new_directory(tmp_path: Path) -> None:
    """A new directory is made with its parents, and names its cluster, its format and who can read it."""
    data = DataDirectory.acquire(tmp_path / "a" / "b", "0.1.0")

    assert identity(tmp_path / "a" / "b") == {
        "cluster_id": data.cluster_id,
        "format": FORMAT,
        "needs_release": "0.1.0",
        "written_by": "0.1.0",
    }


def test_the_cluster_id_stays(made: Path) -> None:
    """A later run, also of a later release, is the same cluster."""
    before = identity(made)

    assert DataDirectory.acquire(made, "9.9.9").cluster_id == before["cluster_id"]
    assert identity(made) == before


def test_cluster_ids_are_kafkas() -> None:
    """22 characters of URL-safe base64 that hold a UUID, and no dash in front."""
    ids = {new_cluster_id() for _ in range(500)}

    assert len(ids) == 500
    assert {len(base64.urlsafe_b64decode(each + "==")) for each in ids} == {16}
    assert not any(each.startswith("-") for each in ids)


def test_a_second_owner_is_refused(made: Path) -> None:
    """The second process on a directory gets the first one's process id."""
    first = DataDirectory.acquire(made, "0.1.0")

    with pytest.raises(AlreadyLocked, match=f"in use by process {os.getpid()}"):
        DataDirectory.acquire(made, "0.1.0")

    first.release()
    DataDirectory.acquire(made, "0.1.0").release()


def test_an_older_format_is_raised(made: Path) -> None:
    """The directory says that it has this release's format before anything else is written; its cluster stays."""
    before = identity(made)
    change(made, format=FORMAT - 1, needs_release="0.0.9", written_by="0.0.9")

    data = DataDirectory.acquire(made, "9.9.9")
    assert data.cluster_id == before["cluster_id"]
    assert identity(made) == before | {"written_by": "9.9.9"}
    data.release()

    DataDirectory.acquire(made, "9.9.10").release()
    assert identity(made)["written_by"] == "9.9.9"


def test_a_newer_format_is_refused(made: Path) -> None:
    """A refusal names the release that is needed, and lets go of the directory."""
    change(made, format=SEVERAL_FORMAT + 1, needs_release="7.3.0")

    for _ in range(2):
        with pytest.raises(NewerFormat, match=r"use Penstock 7\.3\.0 or later"):
            DataDirectory.acquire(made, "0.1.0")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 1}', b'{"format": "1"}', b'{"format": 0}'],
)
def test_a_damaged_identity_is_refused(made: Path, content: bytes) -> None:
    """An identity is never made up again beside existing data."""
    (made / "penstock.json").write_bytes(content)

    with pytest.raises(BadIdentity, match="put the file back"):
        DataDirectory.acquire(made, "0.1.0")
    assert (made / "penstock.json").read_bytes() == content


def test_a_store_without_identity_is_refused(made: Path) -> None:
    """A lost penstock.json is not silently replaced by another cluster's."""
    (made / "store").mkdir()
    (made / "penstock.json").unlink()

    with pytest.raises(BadIdentity, match="is missing"):
        DataDirectory.acquire(made, "0.1.0")


def test_a_place_that_cannot_be_a_directory(tmp_path: Path) -> None:
    """The message names the key that is to be changed."""
    (tmp_path / "file").write_text("")

    with pytest.raises(UnusableDirectory, match=r"data\.dir .*Not a directory"):
        DataDirectory.acquire(tmp_path / "file" / "data", "0.1.0")


def test_atomic_write_leaves_no_scratch(tmp_path: Path) -> None:
    """The new content replaces the old one, and nothing else stays behind."""
    write_atomically(tmp_path / "x", b"old")
    write_atomically(tmp_path / "x", b"new")

    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"new")]
