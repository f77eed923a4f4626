"""Remarks for an operator about a bucket that keeps deleted objects. Pure: texts from the server's answers."""

from __future__ import annotations

from collections.abc import Iterable


def of_lock(mode: str, duration: int, unit: str) -> str:
    """The remark on a default retention."""
    return (
        f"object lock keeps every version for {duration} {unit.lower()} ({mode.lower()}): objects that Penstock "
        "deletes or replaces stay there at least as long, and take room"
    )


def of_versions(prefix: str, expiring: Iterable[str]) -> str | None:
    """The remark on a bucket that keeps versions; `expiring`: the prefixes below which a rule removes old ones."""
    if any(prefix.startswith(covered) for covered in expiring):
        return None
    return (
        "the bucket keeps old versions, and no lifecycle rule removes them: objects that Penstock deletes or replaces "
        f"stay there for ever, and take room. Add a rule that expires noncurrent versions of keys below {prefix!r} "
        "(NoncurrentVersionExpiration)"
    )
