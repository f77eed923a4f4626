"""What an operator should know of a bucket that keeps what is deleted. Pure: texts made of what the server answers."""

from __future__ import annotations

from collections.abc import Iterable


def of_lock(mode: str, duration: int, unit: str) -> str:
    """On a default retention."""
    return (
        f"object lock keeps every version for {duration} {unit.lower()} ({mode.lower()}): what Penstock deletes or "
        "replaces stays there at least as long, and takes room"
    )


def of_versions(prefix: str, expiring: Iterable[str]) -> str | None:
    """On versions that are kept; `expiring`: the prefixes below which a rule removes old ones."""
    if any(prefix.startswith(covered) for covered in expiring):
        return None
    return (
        "the bucket keeps old versions, and no lifecycle rule removes them: what Penstock deletes or replaces stays "
        f"there for ever, and takes room. Add a rule that expires noncurrent versions of what begins with {prefix!r} "
        "(NoncurrentVersionExpiration)"
    )
