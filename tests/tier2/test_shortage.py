"""Shortages and missing rights are known by the operating system's numbers, and by no others."""

from __future__ import annotations

import errno
import os
import socket
import ssl

import pytest

from tier2.shortage import FORBIDDEN, SHORTAGES, is_forbidden, is_shortage


@pytest.mark.parametrize("number", sorted(SHORTAGES | FORBIDDEN))
@pytest.mark.parametrize("kind", [ssl.SSLError, ssl.SSLCertVerificationError, socket.gaierror])
def test_numbers_of_others(kind: type[OSError], number: int) -> None:
    """A certificate that OpenSSL refuses with its number 1 is no lack of rights (EPERM), and a name is no shortage."""
    theirs, ours = kind(number, "in other words"), OSError(number, os.strerror(number))

    assert not is_shortage(theirs)
    assert not is_forbidden(theirs)
    assert is_shortage(ours) is (number in SHORTAGES)
    assert is_forbidden(ours) is (number in FORBIDDEN)


def test_other_errors() -> None:
    """Memory is a shortage; a broken disk and a value are neither."""
    assert is_shortage(MemoryError())
    for error in (OSError(errno.EIO, "broken"), OSError("without a number"), ValueError(errno.EPERM)):
        assert not is_shortage(error)
        assert not is_forbidden(error)
