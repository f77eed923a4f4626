"""A key and certificates from PEM text.

Keeps: no message shows a key or a password. A key is handed to OpenSSL in a file that only this process can read, and
encrypted there by a password that is never written.
"""

from __future__ import annotations

import datetime
import re
import secrets
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

PEM_BYTES_MAX: Final = 4 * 1024 * 1024
_BEGIN: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s*")
_LINE: Final = 64


class BadPem(ValueError):
    """Text that holds no usable key or certificates; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A server's key and certificate chain, its own certificate first."""

    key: PrivateKeyTypes = field(repr=False)
    chain: Sequence[x509.Certificate]

    @property
    def certificate(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def expires(self) -> datetime.datetime:
        """When the first certificate of the chain ends."""
        return min(one.not_valid_after_utc for one in self.chain)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make a context use this key and chain."""
        password = secrets.token_hex(32)
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
        with tempfile.NamedTemporaryFile(prefix="penstock-", suffix=".pem") as handed:
            handed.write(key + b"".join(one.public_bytes(Encoding.PEM) for one in self.chain))
            handed.flush()
            context.load_cert_chain(handed.name, password=password)


def read_text(path: Path) -> str:
    """The content of a PEM file. Raises BadPem."""
    try:
        with path.open("rb") as stream:
            content = stream.read(PEM_BYTES_MAX + 1)
    except OSError as error:
        raise BadPem(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > PEM_BYTES_MAX:
        raise BadPem(f"{path}: it has more than {PEM_BYTES_MAX} bytes, which no PEM file has")
    if content.startswith((b"\xfe\xed\xfe\xed", b"\x30\x82")):
        kind = "a Java keystore (JKS)" if content.startswith(b"\xfe\xed") else "a PKCS#12 or DER file"
        raise BadPem(f"{path}: it is {kind}; Penstock reads PEM, which `openssl pkcs12 -in STORE` prints")
    return content.decode("ascii", errors="replace")


def identity(key_text: str, chain_text: str, password: str | None) -> Identity:
    """The key and the chain in these texts. Raises BadPem."""
    keys = [block for block in _blocks(key_text) if block[0].endswith("PRIVATE KEY")]
    if len(keys) != 1:
        raise BadPem(f"it has {len(keys)} private keys: it must have one (-----BEGIN PRIVATE KEY-----)")
    try:
        key = load_pem_private_key(keys[0][1], None if password is None else password.encode())
    except TypeError as error:
        wanted = "is encrypted: set ssl.key.password" if password is None else "is not encrypted: drop ssl.key.password"
        raise BadPem(f"its private key {wanted}") from error
    except Exception as error:
        reason = "or the password (ssl.key.password) is wrong" if password is not None else ""
        raise BadPem(f"its private key cannot be read {reason}".rstrip()) from error
    chain = certificates(chain_text)
    if not chain:
        raise BadPem("it has no certificate (-----BEGIN CERTIFICATE-----)")
    own = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if own != chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise BadPem("its private key does not belong to its first certificate")
    return Identity(key, chain)


def certificates(text: str) -> list[x509.Certificate]:
    """All certificates in the text, in their order. Raises BadPem."""
    found = []
    for kind, block in _blocks(text):
        if kind in ("CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"):
            try:
                found.append(x509.load_pem_x509_certificate(block))
            except ValueError as error:
                raise BadPem(f"its certificate number {len(found) + 1} cannot be read") from error
    return found


def check_authorities(path: Path) -> None:
    """Does a file hold certificates of authorities, as OpenSSL will read it on contact? Raises BadPem."""
    read_text(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:  # an SSLError is one, too
        raise BadPem(f"{path}: it has no certificate (-----BEGIN CERTIFICATE-----) that can be read") from error
    if not context.cert_store_stats()["x509"]:  # lists of revoked ones alone
        raise BadPem(f"{path}: it has no certificate (-----BEGIN CERTIFICATE-----)")


def revocation_lists(text: str) -> list[x509.CertificateRevocationList]:
    """All lists of revoked certificates in the text (RFC 5280, section 5). Raises BadPem."""
    found = []
    for kind, block in _blocks(text):
        if kind == "X509 CRL":
            try:
                found.append(x509.load_pem_x509_crl(block))
            except ValueError as error:
                raise BadPem(f"its revocation list number {len(found) + 1} cannot be read") from error
    return found


def revoke(context: ssl.SSLContext, lists: Sequence[x509.CertificateRevocationList]) -> None:
    """Make a context refuse the certificates in these lists, and those whose authority has none. Raises SSLError."""
    with tempfile.NamedTemporaryFile(prefix="penstock-", suffix=".pem") as handed:  # OpenSSL takes them from files only
        handed.write(b"".join(one.public_bytes(Encoding.PEM) for one in lists))
        handed.flush()
        context.load_verify_locations(cafile=handed.name)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _blocks(text: str) -> list[tuple[str, bytes]]:
    """Kind and PEM of each block. Kafka's files have PEM in one line, with blanks for line breaks: both are read.

    Raises BadPem.
    """
    found = []
    for kind, body in _bodies(text):
        if ": " in body and re.search(r"^[A-Za-z0-9-]+: ", body, re.M):  # headers of an old encrypted key
            pem = f"-----BEGIN {kind}-----\n{body}-----END {kind}-----\n"
        else:
            flat = "".join(body.split())
            lines = "\n".join(flat[at : at + _LINE] for at in range(0, len(flat), _LINE))
            pem = f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----\n"
        found.append((kind, pem.encode("ascii", errors="replace")))
    return found


def _bodies(text: str) -> Iterator[tuple[str, str]]:
    """Kind of each block, and what it has between its marks. The interpreter's lock is never held for long, as it would
    be by one expression for megabytes of text. Raises BadPem."""
    at = 0
    while (begin := _BEGIN.search(text, at)) is not None:
        mark = f"-----END {begin[1]}-----"
        end = text.find(mark, begin.end())
        if end < 0:  # a list of revoked certificates that is being written must not be passed over
            raise BadPem(f"it ends within a block: {mark[:100]} is missing")
        yield begin[1], text[begin.end() : end]
        at = end + len(mark)
