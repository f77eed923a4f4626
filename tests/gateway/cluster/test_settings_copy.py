"""The copy of a cluster's settings in the bucket: its bytes, and who can read what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cluster.settings_copy import BadCopy, NoKey, Row, SettingsKey, Version, decode_copy, encode_copy
from gateway.cluster.settings_keeper import public_rows
from gateway.config.loading import load

GOLDEN = Path(__file__).parent / "formats" / "settings-1.json"
KEY = SettingsKey(b"0123456789abcdef0123456789abcdef")
NONCE = bytes(range(12))
VERSION = Version(7, 1234)
ROWS: list[Row] = [
    ("acls", b"an acl", b"its rights"),
    ("brokerconfig", b"\0log.retention.ms", b"86400000"),
    ("brokerconfig", b"1\0ssl.keystore.password", b"swordfish"),
    ("brokerconfig", b"\0nobody.knows.this", b"may be a secret"),
    ("quotas", b"a user", b"1000"),
    ("scramcredentials", b"\1alice", b"stored key, server key"),
    ("delegationtokens", b"a token", b"its owner"),
    ("of a later release", b"x", b"y"),
]
IN_CLEAR = [ROWS[0], ROWS[1], ROWS[4]]
SECRET = [row for row in ROWS if row not in IN_CLEAR]
IS_PUBLIC = public_rows(load(None, {}, []))


def test_bytes_stay_as_they_are() -> None:
    """Copies of this format can be read for ever: these bytes were written once."""
    assert encode_copy("a cluster", VERSION, ROWS, IS_PUBLIC, KEY, NONCE) == GOLDEN.read_bytes()
    read = decode_copy(VERSION.key, GOLDEN.read_bytes(), KEY)
    assert (read.cluster, read.version, sorted(read.rows), read.left_out) == ("a cluster", VERSION, sorted(ROWS), {})


def test_what_may_be_a_credential_is_in_no_copy_in_clear() -> None:
    """Neither as it is, nor in base64; without a key it is not there at all, and counted."""
    sealed = encode_copy("a cluster", VERSION, ROWS, IS_PUBLIC, KEY, NONCE)
    left_out = encode_copy("a cluster", VERSION, ROWS, IS_PUBLIC, None, NONCE)
    for data in (sealed, left_out):
        open_rows = decode_copy(VERSION.key, data, None, without_secrets=True)
        assert sorted(open_rows.rows) == sorted(IN_CLEAR)
        assert sum(open_rows.left_out.values()) == len(SECRET)
        shown = json.loads(data)
        assert len(shown["rows"]) == len(IN_CLEAR)
    assert json.loads(left_out)["sealed"] is None
    assert decode_copy(VERSION.key, left_out, None).left_out == {
        "brokerconfig": 2,
        "delegationtokens": 1,
        "of a later release": 1,
        "scramcredentials": 1,
    }
    assert b"swordfish" not in sealed


def test_sealed_rows_need_the_key_that_sealed_them() -> None:
    data = encode_copy("a cluster", VERSION, ROWS, IS_PUBLIC, KEY, NONCE)
    with pytest.raises(NoKey, match=r"set cluster\.settings\.key as its nodes had it, or say --without-secrets"):
        decode_copy(VERSION.key, data, None)
    with pytest.raises(NoKey, match=r"sealed with another cluster\.settings\.key"):
        decode_copy(VERSION.key, data, SettingsKey(b"another key that is long enough!!"))
    nothing_sealed = encode_copy("a cluster", VERSION, IN_CLEAR, IS_PUBLIC, KEY, NONCE)
    assert sorted(decode_copy(VERSION.key, nothing_sealed, None).rows) == sorted(IN_CLEAR)


def test_a_damaged_copy_is_refused_by_name() -> None:
    data = encode_copy("a cluster", VERSION, ROWS, IS_PUBLIC, KEY, NONCE)
    for changed in (data[:-1], b"", data.replace(b"1234", b"1235"), data.replace(b'"format":1', b'"format":2')):
        with pytest.raises(BadCopy, match=VERSION.key):
            decode_copy(VERSION.key, changed, KEY)
    with pytest.raises(BadCopy, match="it says that it is"):
        decode_copy(Version(8, 1234).key, data, KEY)


def test_what_was_sealed_for_one_copy_is_not_taken_for_anothers() -> None:
    """Somebody who writes to the bucket puts the sealed part of an old copy into a new one, with the right CRC."""
    from crc32c import crc32c

    old = json.loads(encode_copy("a cluster", Version(6, 1), ROWS, IS_PUBLIC, KEY, NONCE))
    new = json.loads(encode_copy("a cluster", VERSION, IN_CLEAR, IS_PUBLIC, KEY, NONCE))
    del new["crc"]
    new["sealed"] = old["sealed"]
    forged = json.dumps({**new, "crc": crc32c(json.dumps(new, separators=(",", ":")).encode())}).encode()
    with pytest.raises(BadCopy, match="its sealed part was changed"):
        decode_copy(VERSION.key, forged, KEY)


def test_names_sort_by_how_new_a_copy_is() -> None:
    versions = [Version(1, 99), Version(1, 100), Version(2, 5), Version(1002, 1)]
    assert sorted(versions, key=lambda one: one.key) == versions == sorted(versions)
    assert [Version.parse(one.key) for one in versions] == versions
    assert Version.parse("settings/other") is None
