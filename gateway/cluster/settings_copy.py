"""A copy of a cluster's dynamic settings in the bucket, from which they come back when etcd has lost its data.

ACLs, quotas and configs lie there as they are: whoever reads the bucket reads all records too. What may be a credential
(users of SCRAM, delegation tokens, configs of brokers that are no known, public keys) is *sealed*: encrypted with a key
that is made from `cluster.settings.key`, which the bucket does not have. Without that key it is left out, and counted.

Format 1: an object of JSON without spaces, under ``settings/<epoch>-<revision>``, 20 digits each: the cluster's epoch
counter, and etcd's revision up to which it has all changes. So the last name has the newest copy, after a rebuild too.

    =============  ===================================================================================
    field          value
    =============  ===================================================================================
    ``format``     1
    ``cluster``    the cluster's id
    ``epoch``      as in the name
    ``revision``   as in the name
    ``rows``       ``[kind, key, value]`` each, key and value in base64, sorted
    ``left_out``   how many rows of each kind are neither here nor sealed
    ``sealed``     null, or: ``key`` (8 bytes that name the key, hex), ``counts`` (rows of each kind), ``nonce``
                   (12 bytes, base64), ``data`` (rows in the same form, JSON, encrypted by AES-256-GCM, base64)
    ``crc``        CRC-32C of the object's JSON without this field
    =============  ===================================================================================

The encryption vouches for cluster, epoch and revision as well (``<cluster>/<epoch>/<revision>``): what was sealed for
one copy is not taken for another's. The key is HKDF-SHA256 of the configured one, with the cluster's id as salt.

**Invariants**

- What may be a credential is in no object in clear.
- A copy that is damaged, or sealed by another key, is refused as a whole, and by its name.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from crc32c import crc32c
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.exits import CannotGoOn, ExitCode

FORMAT: Final = 1
PREFIX: Final = "settings/"
NONCE_BYTES: Final = 12
KEY_NAME_BYTES: Final = 8

Row = tuple[str, bytes, bytes]
"""Kind, key and value of a setting."""


class BadCopy(CannotGoOn):
    """The copy of a cluster's settings cannot be used; the message names the object, and what to do."""

    exit_code = ExitCode.CORRUPT


class NoKey(CannotGoOn):
    """A part of the settings is sealed, and the key for it is not configured, or is another one."""

    exit_code = ExitCode.CONFIGURATION


@dataclass(frozen=True, slots=True)
class SettingsKey:
    """What seals and opens. `secret`: at least as hard to guess as 32 random bytes."""

    secret: bytes = field(repr=False)

    def of(self, cluster: str) -> tuple[AESGCM, str]:
        """The cipher for a cluster, and the key's name."""
        derived = HKDF(
            algorithm=SHA256(), length=32 + KEY_NAME_BYTES, salt=cluster.encode(), info=b"penstock settings 1"
        ).derive(self.secret)
        return AESGCM(derived[:32]), derived[32:].hex()


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """How new a copy is."""

    epoch: int
    revision: int

    @property
    def key(self) -> str:
        """The name of its object."""
        return f"{PREFIX}{self.epoch:020d}-{self.revision:020d}"

    @classmethod
    def parse(cls, key: str) -> Version | None:
        """None for what is no copy's name."""
        epoch, _, revision = key.removeprefix(PREFIX).partition("-")
        return cls(int(epoch), int(revision)) if epoch.isdigit() and revision.isdigit() else None


@dataclass(frozen=True, slots=True)
class SettingsView:
    """All settings of a cluster at one moment."""

    version: Version
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class SettingsCopy:
    """What a copy has. `left_out`: rows that it lacks, by their kind."""

    cluster: str
    version: Version
    rows: Sequence[Row]
    left_out: Mapping[str, int] = field(default_factory=dict)


def encode_copy(
    cluster: str,
    version: Version,
    rows: Sequence[Row],
    is_open: Callable[[Row], bool],
    key: SettingsKey | None,
    nonce: bytes,
) -> bytes:
    """The object of these rows. `is_open`: whether everybody who reads the bucket may read a row."""
    in_clear = sorted(row for row in rows if is_open(row))
    secret = sorted(row for row in rows if not is_open(row))
    counts = dict(sorted(Counter(kind for kind, _, _ in secret).items()))
    sealed = None
    if key is not None:
        cipher, name = key.of(cluster)
        data = cipher.encrypt(nonce, _rows_json(secret), _vouched(cluster, version))
        sealed = {"key": name, "counts": counts, "nonce": _text(nonce), "data": _text(data)}
    fields = {
        "format": FORMAT,
        "cluster": cluster,
        "epoch": version.epoch,
        "revision": version.revision,
        "rows": _rows(in_clear),
        "left_out": counts if key is None else {},
        "sealed": sealed,
    }
    return _json({**fields, "crc": crc32c(_json(fields))})


def decode_copy(name: str, data: bytes, key: SettingsKey | None, *, without_secrets: bool = False) -> SettingsCopy:
    """What an object has. Raises BadCopy; NoKey if something is sealed and the key for it is not this one, unless the
    caller goes on `without_secrets`: then it is left out."""
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT:
            raise ValueError(f"format {str(fields['format'])[:20]}, this release reads {FORMAT}")
        crc = fields.pop("crc")
        if crc != crc32c(_json(fields)):
            raise ValueError("it fails its CRC")
        cluster, version = str(fields["cluster"]), Version(int(fields["epoch"]), int(fields["revision"]))
        if version.key != name:
            raise ValueError(f"it says that it is {version.key}")
        rows, sealed = _from_rows(fields["rows"]), fields["sealed"]
        left_out = {str(kind): int(count) for kind, count in fields["left_out"].items()}
        if sealed is not None and without_secrets:
            left_out |= {str(kind): int(count) for kind, count in sealed["counts"].items()}
        elif sealed is not None and sealed["counts"]:
            rows += _opened(name, sealed, cluster, version, key)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCopy(
            f"the copy of the settings {name} cannot be read: {error}. Nothing was changed; restore the object from a "
            "copy of the bucket, or remove it: the one before it is used then"
        ) from error
    return SettingsCopy(cluster, version, rows, left_out)


def _opened(name: str, sealed: Mapping[str, Any], cluster: str, version: Version, key: SettingsKey | None) -> list[Row]:
    count = sum(sealed["counts"].values())
    otherwise = f"or say --without-secrets: users and tokens ({count} rows) have to be made again then"
    if key is None:
        raise NoKey(f"{name} has sealed credentials: set cluster.settings.key as its nodes had it, {otherwise}")
    cipher, own_name = key.of(cluster)
    if own_name != sealed["key"]:
        raise NoKey(f"{name} was sealed with another cluster.settings.key: set the one that its nodes had, {otherwise}")
    nonce, data = b64decode(sealed["nonce"]), b64decode(sealed["data"])
    try:
        opened = cipher.decrypt(nonce, data, _vouched(cluster, version))
    except InvalidTag:
        raise ValueError("its sealed part was changed") from None
    return _from_rows(json.loads(opened))


def _vouched(cluster: str, version: Version) -> bytes:
    return f"{cluster}/{version.epoch}/{version.revision}".encode()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def _rows(rows: Sequence[Row]) -> list[list[str]]:
    return [[kind, _text(key), _text(value)] for kind, key, value in rows]


def _rows_json(rows: Sequence[Row]) -> bytes:
    return _json(_rows(rows))


def _from_rows(rows: Sequence[Sequence[str]]) -> list[Row]:
    return [(str(kind), b64decode(key, validate=True), b64decode(value, validate=True)) for kind, key, value in rows]
