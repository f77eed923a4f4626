"""How nodes of a cluster know one another: each has a certificate of the cluster's own authority.

The first node makes the authority, and leaves its key in etcd for those to come: whoever reads the cluster's keys there
is one of its nodes, or its operator. From it each process makes a key and a certificate of its own at its start, which
are in its memory only. Both sides of a connection between nodes show theirs.

    format 1 of the authority, JSON without spaces, in key ``authority`` (`core.cluster.etcd_keys`):

    =================  =======================================================
    field              value
    =================  =======================================================
    ``v``              1
    ``key``            its private key, PKCS #8 in PEM, not encrypted
    ``certificate``    its certificate, X.509 in PEM
    =================  =======================================================

**Invariants**

- Who has no certificate of this very authority does not come through the handshake, and none of its requests is read.
- A node that asks another one by its id talks to that node, or to nobody: the certificate names it.
- Clocks decide nothing: certificates hold for as long as dates can say. A new authority ends them all.
"""

from __future__ import annotations

import datetime
import json
import ssl
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.errors import CoordinatorRefuses, CorruptState
from gateway.security.pem import BadPem, Identity, identity
from gateway.security.principal import NODE, Principal

FORMAT: Final = 1
BEGINS: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
ENDS: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
"""X.509's date for what has no end (RFC 5280, 4.1.2.5)."""
AUTHORITY_NAME: Final = "authority of a Penstock cluster"


@dataclass(frozen=True, slots=True)
class NodeTls:
    """One process' side of all connections between nodes."""

    node_id: int
    context: ssl.SSLContext = field(repr=False)
    """For those that come in."""
    dialling: ssl.SSLContext = field(repr=False)
    """For those that go out."""
    listener: str = "inner"
    asks_for_certificates: bool = True

    def principal_of(self, der: bytes | None) -> Principal:
        """Whoever came through the handshake is a node."""
        return NODE


@dataclass(frozen=True, slots=True)
class Authority:
    """See the module."""

    own: Identity

    @classmethod
    def make(cls) -> Authority:
        """A new one, for a cluster that has none."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(AUTHORITY_NAME)
        certificate = (
            _builder(name, name, key, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(key, SHA256())
        )
        return cls(Identity(key, (certificate,)))

    def encode(self) -> bytes:
        key = self.own.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        certificate = self.own.certificate.public_bytes(Encoding.PEM)
        value = {"v": FORMAT, "key": key.decode(), "certificate": certificate.decode()}
        return json.dumps(value, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, value: bytes) -> Authority:
        """Raises CorruptState, CoordinatorRefuses; their messages show nothing of the value."""
        try:
            found = json.loads(value)
            version, key, certificate = found["v"], str(found["key"]), str(found["certificate"])
        except (ValueError, TypeError, KeyError):
            raise CorruptState(f"key authority in etcd is no JSON of an authority: {_REPAIR}") from None
        if version != FORMAT:
            raise CoordinatorRefuses(
                f"key authority in etcd has format {str(version)[:20]}, this release reads {FORMAT}"
            )
        try:
            own = identity(key, certificate, None)
            own.certificate.verify_directly_issued_by(own.certificate)
        except (BadPem, ValueError, TypeError, InvalidSignature):
            raise CorruptState(f"key authority in etcd holds no authority's key and certificate: {_REPAIR}") from None
        if not isinstance(own.key, ec.EllipticCurvePrivateKey):
            raise CorruptState(f"key authority in etcd holds another kind of key: {_REPAIR}")
        return cls(own)

    def node(self, node_id: int) -> NodeTls:
        """A new key and certificate of this node, ready for both sides of a handshake."""
        own = self._certified(node_id)
        return NodeTls(
            node_id,
            self._context(own, ssl.PROTOCOL_TLS_SERVER),
            self._context(own, ssl.PROTOCOL_TLS_CLIENT),
        )

    def _certified(self, node_id: int) -> Identity:
        assert isinstance(self.own.key, ec.EllipticCurvePrivateKey), "checked when it was decoded"
        key = ec.generate_private_key(ec.SECP256R1())
        both_sides = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(_name(f"node {node_id}"), self.own.certificate.subject, key, self.own.key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both_sides), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name_of(node_id))]), critical=False)
            .sign(self.own.key, SHA256())
        )
        return Identity(key, (certificate,))

    def _context(self, own: Identity, side: int) -> ssl.SSLContext:
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.own.certificate.public_bytes(Encoding.DER))
        own.load_into(context)
        if side == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # a connection lives long, and each shows its certificate
        return context


_REPAIR: Final = "delete it while all nodes are stopped, and the next one makes another"


def name_of(node_id: int) -> str:
    """The name in a node's certificate."""
    return f"node-{node_id}.penstock"


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, issuing: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGINS)
        .not_valid_after(ENDS)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
