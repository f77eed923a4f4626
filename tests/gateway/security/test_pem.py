"""PEM text is cut into its blocks, whatever stands between them, and none is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.security.pem import BadPem, certificates, check_authorities, revocation_lists
from tests.gateway.security.certificates import Authority

NOTES = "a note: of somebody's\n\n-----no block-----\n"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def test_blocks_among_notes(authority: Authority) -> None:
    """As `openssl x509 -text` and people write them, with line breaks or blanks."""
    own, revoked = authority.issue().pem, authority.revoked(authority.issue())
    text = f"{NOTES}{own}{NOTES}{revoked.replace(chr(10), ' ')}\r\n{own.replace(chr(10), chr(13) + chr(10))}{NOTES}"
    assert [one.subject.rfc4514_string() for one in certificates(text)] == ["CN=localhost"] * 2
    assert [len(one) for one in revocation_lists(text)] == [1]


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_text_that_ends_within_a_block(authority: Authority, kept: float) -> None:
    """A list that is not written to its end is not passed over, as it is to keep somebody out."""
    revoked = authority.revoked(authority.issue())
    text = authority.pem + revoked[: int(len(revoked) * kept)]
    for read in (certificates, revocation_lists):
        with pytest.raises(BadPem, match="it ends within a block: -----END X509 CRL----- is missing"):
            read(text)


def test_files_of_authorities(authority: Authority, tmp_path: Path) -> None:
    """A file counts if it has a certificate, among whatever else; text, a key or a list of revoked ones are none."""
    file = tmp_path / "ca.pem"
    revoked = authority.revoked(authority.issue())
    for text in (authority.pem, NOTES + authority.pem + revoked):
        file.write_text(text)
        check_authorities(file)
    for text in ("", NOTES, authority.issue().key_pem(), revoked, authority.pem[:200]):
        file.write_text(text)
        with pytest.raises(BadPem, match=r"ca\.pem: it has no certificate"):
            check_authorities(file)
