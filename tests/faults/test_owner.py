"""One owner of a data directory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.faults.gateway_process import Ended, Gateway

EXIT_TAKEN: Final = 3


def test_second_process_is_refused(tmp_path: Path) -> None:
    """A second gateway ends with code 3 and names the first, which goes on; after a kill -9 the directory is free."""
    with Gateway(tmp_path / "first") as first, Gateway(tmp_path / "second") as second:
        first.start()
        second.data = first.data
        with pytest.raises(Ended) as ended:
            second.start()
        assert ended.value.code == EXIT_TAKEN
        assert str(first.pid) in ended.value.output
        with first.connect() as connection:
            connection.create_topic("mine", 1)

        first.kill()
        second.start()
        with second.connect() as connection:
            assert connection.list_offset("mine", 0, -1) == 0
