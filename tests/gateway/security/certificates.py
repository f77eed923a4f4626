"""An authority and certificates of its own making, for servers and clients of tests."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

DAY: Final = datetime.timedelta(days=1)
NOW: Final = datetime.datetime.now(datetime.UTC)


def name_of(common_name: str, **parts: str) -> x509.Name:
    """A subject: its common name first on the wire, as in `CN=...` alone."""
    attributes = [x509.NameAttribute(getattr(NameOID, key), value) for key, value in parts.items()]
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass(frozen=True)
class Issued:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self, password: str | None = None) -> str:
        how = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how).decode()


class Authority:
    """Signs certificates. With `parent`, it is itself signed by that one."""

    def __init__(self, name: str = "test authority", parent: Authority | None = None) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = name_of(name)
        issuer = parent or self
        self.certificate = (
            self._builder(self.name, issuer.name, self.key, NOW - DAY, NOW + 365 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(issuer.key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(
        self,
        subject: str | x509.Name = "localhost",
        *,
        names: tuple[str, ...] = ("localhost",),
        ends: datetime.datetime = NOW + 90 * DAY,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Issued:
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = name_of(subject) if isinstance(subject, str) else subject
        begins = min(NOW, ends) - 2 * DAY
        alternatives = [*map(x509.DNSName, names), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            self._builder(subject, self.name, key, begins, ends)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return Issued(certificate, key)

    def revoked(self, *issued: Issued, ends: datetime.datetime = NOW + 30 * DAY) -> str:
        """A list of certificates that count no more."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(min(NOW, ends) - 2 * DAY).next_update(ends)
        for one in issued:
            entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number).revocation_date(NOW)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()

    @staticmethod
    def _builder(
        subject: x509.Name,
        issuer: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        begins: datetime.datetime,
        ends: datetime.datetime,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
        )


@dataclass(frozen=True)
class Files:
    """What a server and its clients need, in files."""

    directory: Path
    authority: Authority
    server: Issued
    keystore: Path
    truststore: Path

    def client(self, subject: str | x509.Name = "alice", authority: Authority | None = None, **how: object) -> Path:
        """A file with a client's key and certificate."""
        return self.kept((authority or self.authority).issue(subject, **how))  # type: ignore[arg-type]

    def kept(self, issued: Issued) -> Path:
        """The same of a certificate that is there."""
        path = self.directory / f"client-{issued.certificate.serial_number}.pem"
        path.write_text(issued.key_pem() + issued.pem)
        return path

    def context(self, client: Path | None = None) -> ssl.SSLContext:
        """A client's side."""
        context = ssl.create_default_context(cafile=str(self.truststore))
        if client is not None:
            context.load_cert_chain(client)
        return context


def make(directory: Path) -> Files:
    authority = Authority()
    server = authority.issue()
    keystore, truststore = directory / "server.pem", directory / "authority.pem"
    keystore.write_text(server.key_pem() + server.pem)
    truststore.write_text(authority.pem)
    return Files(directory, authority, server, keystore, truststore)
