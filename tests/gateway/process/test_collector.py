"""Python's collector in the gateway: a pass is one turn of the loop, for which everybody waits."""

from __future__ import annotations

import gc

from gateway.process.serving import GC_THRESHOLDS


def test_a_pass_over_the_young_is_short() -> None:
    """Requests in line are objects. When thousands wait, no pass over young ones goes through all of them."""
    looked_at = []

    def starts(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"] == 1:
            looked_at.append(len(gc.get_objects(0)) + len(gc.get_objects(1)))

    before = gc.get_threshold()
    gc.collect()
    gc.callbacks.append(starts)
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        in_line = [[object()] for _ in range(400_000)]
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(starts)

    assert len(in_line) == 400_000
    assert len(looked_at) >= 4
    assert max(looked_at) <= 70_000
