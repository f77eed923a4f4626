"""Reads of entries that are not in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.fetching.cold_reads import ColdReads
from gateway.fetching.looking import Findings
from gateway.fetching.sessions import Target
from gateway.wire.error_codes import NOT_LEADER_OR_FOLLOWER, OFFSET_OUT_OF_RANGE
from tests.gateway.apis.harness import NOW, admin_of


@pytest.mark.parametrize(("has_moved", "told"), [(True, NOT_LEADER_OR_FOLLOWER), (False, OFFSET_OUT_OF_RANGE)])
def test_entries_that_a_container_has_let_go_of(tmp_path: Path, has_moved: bool, told: int) -> None:
    """A partition moves to another container during a read, which finds nothing: its consumer looks for the leader. At
    an offset out of range it would begin at the end, and miss records."""
    with admin_of(tmp_path) as admin:
        topic = admin.create()
        admin.produce(topic, NOW)

        async def read() -> int:
            slot, findings = admin.slot(topic), Findings(admin.broker.store, 12, 1 << 20, False)
            target = Target(topic, 0)
            target.slot, target.max_bytes = slot, 1 << 20
            slot.columns.clear()
            slot.has_moved = has_moved
            cold = findings.look(target)
            assert cold is not None
            await ColdReads(findings, 1, 0.0, _nothing, lambda: None).run([cold], [])
            return int(findings.results[target].error_code)

        assert admin.run(read()) == told


async def _nothing(_: object) -> tuple[list[object], list[object]]:
    return [], []
