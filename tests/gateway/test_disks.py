"""The directories of a store and its containers: fixed when it is made, refused by name when they are not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from core.errors import AlreadyLocked
from gateway.data_directory import FORMAT, BadIdentity, DataDirectory
from gateway.disks import FORMAT as SEVERAL_FORMAT
from gateway.disks import Layout, OtherLayout, UnusableDisk, Wanted


def acquire(*directories: Path, containers: int | None = None) -> DataDirectory:
    return DataDirectory.acquire(directories[0], "0.1.0", Wanted(containers, directories[1:]))


def made(*directories: Path, containers: int | None = None) -> None:
    """A store as a start leaves it."""
    data = acquire(*directories, containers=containers)
    data.store.mkdir()
    data.release()


def test_a_plain_store_is_as_before(tmp_path: Path) -> None:
    """One container in one directory is written as earlier releases read it, and needs no key."""
    made(tmp_path / "a")
    identity = json.loads((tmp_path / "a" / "penstock.json").read_text())
    assert identity.keys() == {"cluster_id", "format", "needs_release", "written_by"}
    assert identity["format"] == FORMAT
    acquire(tmp_path / "a", containers=1).release()


def test_numbers_are_kept(tmp_path: Path) -> None:
    """The number of containers is that of the first start. By default there is one in each directory."""
    made(tmp_path / "a", containers=4)
    assert json.loads((tmp_path / "a" / "penstock.json").read_text())["format"] == SEVERAL_FORMAT
    data = acquire(tmp_path / "a")
    assert (data.layout, data.stores) == (Layout(4, 1), (tmp_path / "a" / "store",))
    data.release()
    made(tmp_path / "b", tmp_path / "c")
    data = acquire(tmp_path / "b", tmp_path / "c")
    assert data.layout == Layout(2, 2)
    assert data.stores == (tmp_path / "b" / "store", tmp_path / "c" / "store")
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "b" / "penstock.json", tmp_path / "copy")
    with pytest.raises(AlreadyLocked, match="/c is in use"):
        acquire(tmp_path / "copy", tmp_path / "c")
    data.release()


@pytest.mark.parametrize("containers", [1, 2, 5])
def test_another_number_is_refused(tmp_path: Path, containers: int) -> None:
    """The refusal names both numbers and says what to do; nothing changes. So it is for one container of old."""
    made(tmp_path / "a", containers=4)
    with pytest.raises(OtherLayout, match=rf"containers = {containers}, but .*/a was made with 4.*set containers = 4"):
        acquire(tmp_path / "a", containers=containers)
    acquire(tmp_path / "a", containers=4).release()
    made(tmp_path / "old")
    with pytest.raises(OtherLayout, match="was made with 1"):
        acquire(tmp_path / "old", containers=4)


def test_a_start_that_made_no_store_fixes_nothing(tmp_path: Path) -> None:
    """A refused first start may be followed by one with other numbers, and keeps the cluster's id."""
    first = acquire(tmp_path / "a", containers=4)
    first.release()
    again = acquire(tmp_path / "a", containers=2)
    assert (again.cluster_id, again.layout.containers) == (first.cluster_id, 2)
    again.release()


def test_directories_that_are_not_the_right_ones(tmp_path: Path) -> None:
    """One that is missing, empty, in another place or of another store is refused by name, and left as it was."""
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    made(a, b, c)
    made(tmp_path / "x", tmp_path / "y", tmp_path / "z")
    for named, why in (
        ((a,), "names 1, but .*/a was made with 3"),
        ((a, b), "names 2, but .*/a was made with 3"),
        ((a, c, b), "/c is directory 3 of this store, and is named as directory 2"),
        ((a, b, tmp_path / "gone"), "/gone is not there, or is empty"),
        ((a, b, tmp_path / "z"), "/z belongs to another store"),
        ((b, a, c), "/b is directory 2 of a store that has 3: name the first one first"),
        ((a, b, b), "/b is directory 2 of this store, and is named as directory 3"),
    ):
        with pytest.raises((OtherLayout, UnusableDisk), match=why):
            acquire(*named)
    assert not (tmp_path / "gone").exists()
    acquire(a, b, c).release()
    shutil.move(c, tmp_path / "elsewhere")  # its disk is mounted in another place
    acquire(a, b, tmp_path / "elsewhere").release()


def test_a_new_store_takes_no_old_one(tmp_path: Path) -> None:
    """A further directory that holds a store without a name is refused."""
    (tmp_path / "b" / "store").mkdir(parents=True)
    with pytest.raises(UnusableDisk, match=r"/b holds a store of which penstock\.json is missing"):
        acquire(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"directory": "x"}'])
def test_a_damaged_name(tmp_path: Path, text: str) -> None:
    """A damaged penstock.json of a further directory is refused with what to do."""
    made(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / "penstock.json").write_text(text)
    with pytest.raises(UnusableDisk, match="put it back from a backup"):
        acquire(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("number", [0, -1, "4", True, None])
def test_a_damaged_number(tmp_path: Path, number: object) -> None:
    """A number of containers that is none is damage."""
    made(tmp_path / "a", containers=4)
    path = tmp_path / "a" / "penstock.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"containers": number}))
    with pytest.raises(BadIdentity, match="containers is"):
        acquire(tmp_path / "a")
