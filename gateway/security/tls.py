"""TLS of one listener: its key, its certificates, the rules for clients' certificates, and their renewal.

Invariants: a context that served a handshake never changes; changed files make a new one, for connections that come
later. What is read again takes effect only if it is whole: the key belongs to the certificate, names are kept unless
the operator allows otherwise. Else the former goes on, and a log line says so.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from pydantic import SecretStr

from gateway.config.layers import ConfigError
from gateway.config.security import ListenerSecurity
from gateway.security.distinguished_names import rfc2253
from gateway.security.pem import BadPem, Identity, certificates, identity, read_text, revocation_lists, revoke
from gateway.security.principal import ANONYMOUS, Principal
from gateway.security.principal_mapping import Rule, WrongRule, parse_rules, user_of

logger = logging.getLogger(__name__)

_VERSIONS: Final = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_TLS_1_3_SUITES: Final = frozenset(
    {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_CCM_SHA256"}
)
_VERIFY: Final = {"none": ssl.CERT_NONE, "requested": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

State = tuple[tuple[int, int, int] | None, ...]


class NoPrincipal(Exception):
    """A client's certificate gives it no user; the message says why."""


class ListenerTls:
    """See the module. Raises ConfigError when made, if files or keys cannot be used."""

    def __init__(self, listener: str, keys: ListenerSecurity) -> None:
        self.listener = listener
        self._keys = keys
        self._rules = self._read_rules()
        self._seen = self._state()
        try:
            self._identity, self.context = self._load()
        except BadPem as wrong:
            raise ConfigError([f"listener {listener}: {wrong}"]) from wrong
        self.reloads = 0
        self.failed_reloads = 0
        _tell_of_expiry(self._identity, listener)

    def __repr__(self) -> str:
        return f"<ListenerTls {self.listener}, certificate until {self._identity.expires:%Y-%m-%d}>"

    @property
    def begins_s(self) -> float:
        """When the last certificate of the chain begins, in seconds since 1970."""
        return max(one.not_valid_before_utc.timestamp() for one in self._identity.chain)

    @property
    def expires_s(self) -> float:
        """When the first certificate of the chain ends, in seconds since 1970."""
        return self._identity.expires.timestamp()

    @property
    def asks_for_certificates(self) -> bool:
        return self._keys.ssl_client_auth != "none"

    def principal_of(self, der: bytes | None) -> Principal:
        """Who a client is by its certificate, which OpenSSL has verified. Raises NoPrincipal."""
        if der is None:
            return ANONYMOUS
        try:
            certificate = x509.load_der_x509_certificate(der)
            name = rfc2253(certificate.subject)
        except ValueError as wrong:
            raise NoPrincipal(f"its certificate cannot be read: {str(wrong)[:200]}") from wrong
        if certificate.not_valid_after_utc.timestamp() < time.time():  # a resumed session is not verified again
            raise NoPrincipal(f"its certificate, of {name[:200]!r}, has expired")
        user = user_of(self._rules, name)
        if not user:
            raise NoPrincipal(f"no rule of ssl.principal.mapping.rules applies to {name[:200]!r}")
        return Principal("User", user)

    def renew(self) -> bool:
        """Read changed files again; True if they took effect. Waits for the disk: for a thread."""
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        try:
            fresh, context = self._load()
            self._check_names(fresh)
        except BadPem as wrong:
            self.failed_reloads += 1
            logger.error(
                "changed certificates are not used, the former ones still are",
                extra={"listener": self.listener, "error": str(wrong)},
            )
            return False
        self._identity, self.context = fresh, context
        self.reloads += 1
        logger.info(
            "changed certificates are used from now on",
            extra={"listener": self.listener, "expires": f"{fresh.expires:%Y-%m-%dT%H:%M:%SZ}"},
        )
        _tell_of_expiry(fresh, self.listener)
        return True

    def _state(self) -> State:
        """What changes when a file is written again, or a link is pointed elsewhere."""
        return tuple(_state_of(path) for path in (self._keys.ssl_keystore_location, self._keys.ssl_truststore_location))

    def _check_names(self, fresh: Identity) -> None:
        """Raises BadPem."""
        before, after = self._identity.certificate, fresh.certificate
        if before.subject != after.subject and not self._keys.ssl_allow_dn_changes:
            raise BadPem(
                f"its name is {rfc2253(after.subject)!r} and was {rfc2253(before.subject)!r}; ssl.allow.dn.changes "
                "would allow it"
            )
        if (lost := _names(before) - _names(after)) and not self._keys.ssl_allow_san_changes:
            raise BadPem(f"it lacks the names {sorted(lost)}; ssl.allow.san.changes would allow it")

    def _load(self) -> tuple[Identity, ssl.SSLContext]:
        keys = self._keys
        own = self._own_identity()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.num_tickets = 1  # a client comes again by one; each is made, sealed and sent with every handshake
        versions = sorted(_VERSIONS[name] for name in keys.ssl_enabled_protocols)
        suites = [openssl_name(name) for name in keys.ssl_cipher_suites if name not in _TLS_1_3_SUITES]
        if keys.ssl_cipher_suites and not suites:
            versions = [version for version in versions if version is ssl.TLSVersion.TLSv1_3]
            if not versions:
                raise BadPem("ssl.cipher.suites has suites of TLS 1.3 only, and ssl.enabled.protocols lacks TLSv1.3")
        context.minimum_version, context.maximum_version = versions[0], versions[-1]
        if suites:
            try:
                context.set_ciphers(":".join(suites))
            except ssl.SSLError:
                raise BadPem(f"ssl.cipher.suites: OpenSSL knows none of {', '.join(suites)[:300]}") from None
        try:
            own.load_into(context)
        except ssl.SSLError as error:
            raise BadPem(f"OpenSSL refuses the certificate or key: {error.reason}") from error
        context.verify_mode = _VERIFY[keys.ssl_client_auth]
        if self.asks_for_certificates:
            self._trust(context)
        return own, context

    def _own_identity(self) -> Identity:
        keys = self._keys
        password = _text(keys.ssl_key_password)
        if (path := keys.ssl_keystore_location) is None:
            return identity(
                _text(keys.ssl_keystore_key) or "", _text(keys.ssl_keystore_certificate_chain) or "", password
            )
        text = read_text(path)
        try:
            return identity(text, text, password)
        except BadPem as wrong:
            raise BadPem(f"{path}: {wrong}") from wrong

    def _trust(self, context: ssl.SSLContext) -> None:
        path = self._keys.ssl_truststore_location
        text = read_text(path) if path is not None else _text(self._keys.ssl_truststore_certificates) or ""
        where = path or "ssl.truststore.certificates"
        try:
            found, revoked = certificates(text), revocation_lists(text)
        except BadPem as wrong:
            raise BadPem(f"{where}: {wrong}") from wrong
        if not found:
            raise BadPem(f"{where}: it has no certificate (-----BEGIN CERTIFICATE-----)")
        try:
            context.load_verify_locations(cadata=b"".join(_der(one) for one in found))
            if revoked:
                revoke(context, revoked)
        except ssl.SSLError as error:
            raise BadPem(f"{where}: OpenSSL refuses its certificates or lists: {error.reason}") from error
        _tell_of_old_lists(revoked, self.listener)

    def _read_rules(self) -> tuple[Rule, ...]:
        try:
            return parse_rules(self._keys.ssl_principal_mapping_rules)
        except WrongRule as wrong:
            raise ConfigError([f"ssl.principal.mapping.rules of listener {self.listener}: {wrong}"]) from wrong


def openssl_name(name: str) -> str:
    """OpenSSL's name of a cipher suite that may have Java's (IANA's) name."""
    if "_WITH_" not in name:
        return name
    exchange, _, cipher = name.removeprefix("TLS_").removeprefix("SSL_").partition("_WITH_")
    cipher = re.sub(r"AES_(\d+)", r"AES\1", cipher).replace("_CBC", "").replace("3DES_EDE", "DES-CBC3")
    cipher = cipher.replace("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305")
    return "-".join(part.replace("_", "-") for part in ("" if exchange == "RSA" else exchange, cipher) if part)


def _text(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _state_of(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_ino, found.st_size)


def _names(certificate: x509.Certificate) -> set[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return set(_each_name(extension.value))


def _each_name(names: x509.SubjectAlternativeName) -> Iterator[str]:
    for name in names:
        yield str(name.value)[:255]


def _tell_of_old_lists(lists: Iterable[x509.CertificateRevocationList], listener: str) -> None:
    for one in lists:
        ends = one.next_update_utc
        if ends is not None and ends.timestamp() < time.time():
            extra = {"listener": listener, "authority": rfc2253(one.issuer)[:200]}
            logger.error("a list of revoked certificates has ended: clients of its authority are refused", extra=extra)


def _tell_of_expiry(own: Identity, listener: str) -> None:
    left_days = (own.expires.timestamp() - time.time()) / 86_400
    if left_days < 0:
        logger.error("the server's certificate has expired: clients will refuse it", extra={"listener": listener})
    elif left_days < 14:
        logger.warning("the server's certificate ends soon", extra={"listener": listener, "days": round(left_days, 1)})
