"""The rows of ACLs: their bytes, for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.security.acl_format import UnknownAcl, decode_key, encode_key
from gateway.security.acls import Acl, Operation, PatternType, Permission, ResourceType

ACLS = st.builds(
    Acl,
    st.sampled_from([kind for kind in ResourceType if kind is not ResourceType.ANY]),
    st.text(max_size=20),
    st.sampled_from((PatternType.LITERAL, PatternType.PREFIXED)),
    st.text(max_size=20),
    st.text(max_size=20),
    st.sampled_from([operation for operation in Operation if operation is not Operation.ANY]),
    st.sampled_from((Permission.ALLOW, Permission.DENY)),
)
GOLDEN = bytes.fromhex("01020403030003000a" + "74c3b3" + "557365723a616c696365" + "31302e302e302e37")


def test_golden() -> None:
    """Version 1, byte for byte."""
    acl = Acl(
        ResourceType.TOPIC, "tó", PatternType.PREFIXED, "User:alice", "10.0.0.7", Operation.READ, Permission.ALLOW
    )
    assert encode_key(acl) == GOLDEN
    assert decode_key(GOLDEN) == acl


@given(ACLS)
def test_round_trip(acl: Acl) -> None:
    """An ACL is read back as it was written."""
    assert decode_key(encode_key(acl)) == acl


@given(ACLS, ACLS)
def test_keys_differ(one: Acl, other: Acl) -> None:
    """Different ACLs have different rows, whatever is in their texts."""
    assert (encode_key(one) == encode_key(other)) is (one == other)


@pytest.mark.parametrize(
    "row",
    [b"", b"\x02" + GOLDEN[1:], GOLDEN[:8], GOLDEN[:15], b"\x01\x63" + GOLDEN[2:], GOLDEN[:9] + b"\xff" + GOLDEN[10:]],
)
def test_unknown_rows(row: bytes) -> None:
    """A row of a later release, or a damaged one, is refused: leaving it out could open what it closes."""
    with pytest.raises(UnknownAcl, match="no ACL of this release"):
        decode_key(row)
