"""A data directory that is being recovered: all of it or nothing, and never beside something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import AlreadyLocked
from gateway.data_directory import DataDirectory, InterruptedRecovery, NotEmpty, RecoveryDirectory

CLUSTER = "C" * 22


def crashed(path: Path) -> None:
    """A recovery that ended in the middle."""
    directory = RecoveryDirectory.begin(path, None)
    (directory.store / "container-0").mkdir()
    (directory.store / "container-0" / "half").write_bytes(b"half")
    directory.release()


def test_made_whole(tmp_path: Path) -> None:
    """A recovered directory becomes a data directory with the cluster's own id and the recovered content."""
    directory = RecoveryDirectory.begin(tmp_path / "data", None)
    (directory.store / "container-0").mkdir()
    (directory.store / "container-0" / "file").write_bytes(b"whole")
    directory.finish(CLUSTER, "1.0")
    directory.release()
    data = DataDirectory.acquire(tmp_path / "data", "1.0")

    assert (data.cluster_id, data.fresh) == (CLUSTER, False)
    assert (data.store / "container-0" / "file").read_bytes() == b"whole"
    data.release()


def test_interrupted(tmp_path: Path) -> None:
    """A start refuses the remains of a crash; another try starts over."""
    crashed(tmp_path)
    with pytest.raises(InterruptedRecovery, match="run `penstock recover`"):
        DataDirectory.acquire(tmp_path, "1.0")
    directory = RecoveryDirectory.begin(tmp_path, None)

    assert list(directory.store.iterdir()) == []
    directory.release()


def test_interrupted_at_the_last_step(tmp_path: Path) -> None:
    """The identity is there and the store has not got its name yet: still refused, and done again."""
    crashed(tmp_path)
    (tmp_path / "penstock.json").write_text("{}")
    with pytest.raises(InterruptedRecovery):
        DataDirectory.acquire(tmp_path, "1.0")
    directory = RecoveryDirectory.begin(tmp_path, None)
    directory.finish(CLUSTER, "1.0")
    directory.release()

    assert DataDirectory.acquire(tmp_path, "1.0").cluster_id == CLUSTER


def test_given_up(tmp_path: Path) -> None:
    """A recovery that cannot go on leaves nothing that a start would stumble over."""
    directory = RecoveryDirectory.begin(tmp_path, None)
    directory.give_up()
    directory.release()

    assert DataDirectory.acquire(tmp_path, "1.0").fresh


@pytest.mark.parametrize("name", ["store", "notes.txt", "tier2"])
def test_not_empty(tmp_path: Path, name: str) -> None:
    """A directory that holds anything is not recovered into; its content is named and left alone."""
    (tmp_path / name).mkdir()
    with pytest.raises(NotEmpty, match=f"it holds {name}"):
        RecoveryDirectory.begin(tmp_path, None)

    assert (tmp_path / name).is_dir()


def test_what_a_refused_start_leaves(tmp_path: Path) -> None:
    """A start that was told to recover has made an identity and a lock: they are no store."""
    DataDirectory.acquire(tmp_path, "1.0").release()

    RecoveryDirectory.begin(tmp_path, None).release()


def test_long_term_storage_below_it(tmp_path: Path) -> None:
    """The embedded long-term storage may lie in the directory that it is recovered into."""
    (tmp_path / "tier2").mkdir()

    RecoveryDirectory.begin(tmp_path, tmp_path / "tier2").release()


def test_two_at_once(tmp_path: Path) -> None:
    """A second recovery, or a start, waits for nobody: it is refused."""
    directory = RecoveryDirectory.begin(tmp_path, None)
    for taking in (
        lambda: RecoveryDirectory.begin(tmp_path, None),
        lambda: DataDirectory.acquire(tmp_path, "1.0"),
    ):
        with pytest.raises(AlreadyLocked):
            taking()
    directory.release()
