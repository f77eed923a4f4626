"""Whether a member may hold as many bytes as it asks for."""

from __future__ import annotations

from kio.schema.errors import ErrorCode

from gateway.groups.classic.allowance import Allowance
from gateway.refusals import Refusal


def check_size(allowance: Allowance, size: int, before: int) -> None:
    """May a member that held `before` bytes hold `size`? Raises Refusal."""
    growth = size - before
    if size > allowance.member_max_bytes or (growth > 0 and allowance.used + growth > allowance.all_max_bytes):
        why = "The members of all groups hold as much as groups.metadata.max.bytes allows."
        raise Refusal(ErrorCode.group_max_size_reached, why)
