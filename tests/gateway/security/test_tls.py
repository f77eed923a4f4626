"""Keys and certificates of a listener: read whole or refused by name, renewed without a restart."""

from __future__ import annotations

import datetime
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest

from gateway.config.layers import ConfigError
from gateway.config.security import ListenerSecurity, TransportKeys
from gateway.security.tls import ListenerTls, openssl_name
from tests.gateway.security.certificates import DAY, NOW, Authority, Files, make

PASSWORD = "s3cr3t-of-the-key"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make(tmp_path)


def made(**keys: Any) -> ListenerTls:
    own = {key.replace("_", "."): value for key, value in keys.items()}
    return ListenerTls("CLIENTS", ListenerSecurity.of(TransportKeys(), own))


def handshake(tls: ListenerTls, client: ssl.SSLContext) -> ssl.SSLObject:
    """A handshake in memory; the client's side of it. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = tls.context.wrap_bio(to_server, to_client, server_side=True)
    peer = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    todo = [peer, server]
    while todo:
        for side in list(todo):
            try:
                side.do_handshake()
                todo.remove(side)
            except ssl.SSLWantReadError:
                pass
    return peer


class TestSources:
    def test_a_file_with_key_and_chain(self, files: Files) -> None:
        """`ssl.keystore.location`: one PEM file."""
        assert handshake(made(ssl_keystore_location=files.keystore), files.context()).version() == "TLSv1.3"

    def test_texts(self, files: Files) -> None:
        """`ssl.keystore.key` and `.certificate.chain` as text, with line breaks or, as in Kafka's files, without."""
        for blank in ("\n", " "):
            tls = made(
                ssl_keystore_key=files.server.key_pem().replace("\n", blank),
                ssl_keystore_certificate_chain=files.server.pem.replace("\n", blank),
            )
            handshake(tls, files.context())

    def test_a_chain(self, files: Files) -> None:
        """Clients that know only the root accept a server whose file has the certificate between."""
        between = Authority("between", files.authority)
        server = between.issue()
        files.keystore.write_text(server.key_pem() + server.pem + between.pem)
        handshake(made(ssl_keystore_location=files.keystore), files.context())

    def test_an_encrypted_key(self, files: Files) -> None:
        """PKCS#8 with `ssl.key.password`."""
        files.keystore.write_text(files.server.key_pem(PASSWORD) + files.server.pem)
        handshake(made(ssl_keystore_location=files.keystore, ssl_key_password=PASSWORD), files.context())

    @pytest.mark.parametrize(
        ("content", "password", "told"),
        [
            ("{chain}", None, "0 private keys"),
            ("{key}", None, "no certificate"),
            ("{key}{key}{chain}", None, "2 private keys"),
            ("{encrypted}{chain}", None, "is encrypted: set ssl.key.password"),
            ("{encrypted}{chain}", "wrong", "the password (ssl.key.password) is wrong"),
            ("{key}{chain}", "any", "is not encrypted: drop ssl.key.password"),
            ("{key}{other}", None, "does not belong to its first certificate"),
            ("{key}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", None, "certificate number 1"),
            ("\xfe\xed\xfe\xed", None, "a Java keystore (JKS)"),
            ("\x30\x82\x0b", None, "a PKCS#12 or DER file"),
        ],
    )
    def test_files_that_are_refused(self, files: Files, content: str, password: str | None, told: str) -> None:
        """The message names the file and the fault, and shows no key and no password."""
        key = files.server.key_pem()
        text = content.format(
            key=key, chain=files.server.pem, encrypted=files.server.key_pem(PASSWORD), other=files.authority.issue().pem
        )
        files.keystore.write_bytes(text.encode("latin-1"))
        with pytest.raises(ConfigError) as refused:
            made(ssl_keystore_location=files.keystore, ssl_key_password=password)
        said = str(refused.value)
        assert told in said
        assert str(files.keystore) in said
        assert key.splitlines()[1] not in said
        assert PASSWORD not in said
        assert "wrong" not in said or password == "wrong"

    def test_a_file_that_is_not_there(self, files: Files) -> None:
        """The message names it."""
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            made(ssl_keystore_location=files.directory / "nothing.pem")

    def test_a_truststore_without_certificates(self, files: Files) -> None:
        """Refused: it would let nobody in."""
        files.truststore.write_text("nothing")
        with pytest.raises(ConfigError, match="it has no certificate"):
            made(
                ssl_keystore_location=files.keystore,
                ssl_client_auth="required",
                ssl_truststore_location=files.truststore,
            )


class TestVersionsAndSuites:
    @pytest.mark.parametrize(("enabled", "spoken"), [(["TLSv1.2"], "TLSv1.2"), (["TLSv1.3"], "TLSv1.3")])
    def test_versions(self, files: Files, enabled: list[str], spoken: str) -> None:
        """`ssl.enabled.protocols`: what is not named is not spoken."""
        tls = made(ssl_keystore_location=files.keystore, ssl_enabled_protocols=enabled)
        assert handshake(tls, files.context()).version() == spoken
        other = files.context()
        other.maximum_version = other.minimum_version = (
            ssl.TLSVersion.TLSv1_3 if spoken == "TLSv1.2" else ssl.TLSVersion.TLSv1_2
        )
        with pytest.raises(ssl.SSLError):
            handshake(tls, other)

    @pytest.mark.parametrize(
        "name", ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "ECDHE-ECDSA-AES256-GCM-SHA384"], ids=["Java", "OpenSSL"]
    )
    def test_suites(self, files: Files, name: str) -> None:
        """`ssl.cipher.suites` by either name."""
        tls = made(ssl_keystore_location=files.keystore, ssl_cipher_suites=[name], ssl_enabled_protocols=["TLSv1.2"])
        cipher = handshake(tls, files.context()).cipher()
        assert cipher is not None
        assert cipher[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"

    def test_suites_of_1_3_alone_turn_1_2_off(self, files: Files) -> None:
        """Nothing weaker is spoken than what was named."""
        tls = made(ssl_keystore_location=files.keystore, ssl_cipher_suites=["TLS_AES_128_GCM_SHA256"])
        old = files.context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            handshake(tls, old)

    def test_unknown_suites(self, files: Files) -> None:
        """Refused by name."""
        with pytest.raises(ConfigError, match="knows none of NO-SUCH"):
            made(ssl_keystore_location=files.keystore, ssl_cipher_suites=["NO-SUCH"])

    @pytest.mark.parametrize(
        ("java", "openssl"),
        [
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"),
            ("TLS_RSA_WITH_AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
            ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"),
            ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384", "ECDHE-RSA-AES256-SHA384"),
            ("TLS_DHE_RSA_WITH_AES_128_CBC_SHA", "DHE-RSA-AES128-SHA"),
        ],
    )
    def test_names(self, java: str, openssl: str) -> None:
        """Every translated name is one that OpenSSL knows."""
        assert openssl_name(java) == openssl
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers(openssl)
        assert openssl in {cipher["name"] for cipher in context.get_ciphers()}


class TestRenewal:
    def test_a_changed_file(self, files: Files) -> None:
        """It is used for handshakes from then on; a session that began goes on with its own context."""
        tls = made(ssl_keystore_location=files.keystore)
        before = tls.context
        assert not tls.renew()
        fresh = files.authority.issue(ends=NOW + 200 * DAY)
        files.keystore.write_text(fresh.key_pem() + fresh.pem)
        assert tls.renew()
        assert tls.context is not before
        assert tls.expires_s == pytest.approx((NOW + 200 * DAY).timestamp(), abs=2)
        assert handshake(tls, files.context()).getpeercert(binary_form=True) == ssl.PEM_cert_to_DER_cert(fresh.pem)

    def test_a_link_that_is_pointed_elsewhere(self, files: Files) -> None:
        """As Kubernetes renews secrets."""
        link = files.directory / "link.pem"
        link.symlink_to(files.keystore)
        tls = made(ssl_keystore_location=link)
        fresh = files.authority.issue()
        other = files.directory / "other.pem"
        other.write_text(fresh.key_pem() + fresh.pem)
        link.unlink()
        link.symlink_to(other)
        assert tls.renew()

    @pytest.mark.parametrize("fault", ["half written", "another key", "another name", "fewer names", "gone"])
    def test_a_changed_file_that_is_not_used(self, files: Files, caplog: pytest.LogCaptureFixture, fault: str) -> None:
        """The former certificate goes on being shown, one line says why, and the next change is looked at again."""
        tls = made(ssl_keystore_location=files.keystore)
        before = tls.context
        good = files.keystore.read_text()
        other = files.authority.issue("elsewhere") if fault == "another name" else files.authority.issue(names=())
        content = {
            "half written": good[: len(good) // 2],
            "another key": other.key_pem() + files.server.pem,
            "another name": other.key_pem() + other.pem,
            "fewer names": other.key_pem() + other.pem,
            "gone": None,
        }[fault]
        files.keystore.unlink() if content is None else files.keystore.write_text(content)
        with caplog.at_level(logging.ERROR):
            assert not tls.renew()
        assert tls.context is before
        assert len(caplog.records) == 1
        assert tls.failed_reloads == 1
        assert not tls.renew()  # told once
        fresh = files.authority.issue()
        files.keystore.write_text(fresh.key_pem() + fresh.pem)
        assert tls.renew()

    def test_names_may_change_if_allowed(self, files: Files) -> None:
        """`ssl.allow.dn.changes` and `ssl.allow.san.changes`."""
        tls = made(ssl_keystore_location=files.keystore, ssl_allow_dn_changes="true", ssl_allow_san_changes="true")
        other = files.authority.issue("elsewhere", names=())
        files.keystore.write_text(other.key_pem() + other.pem)
        assert tls.renew()

    def test_authorities_are_renewed_too(self, files: Files) -> None:
        """A client of an authority that was added gets in."""
        tls = made(
            ssl_keystore_location=files.keystore,
            ssl_client_auth="required",
            ssl_truststore_location=files.truststore,
        )
        added = Authority("added")
        files.truststore.write_text(files.authority.pem + added.pem)
        assert tls.renew()
        handshake(tls, files.context(files.client(authority=added)))

    def test_revoked_certificates_are_renewed_too(self, files: Files) -> None:
        """A list of revoked certificates among the authorities: who stands in it is refused, others get in. A list that
        grows counts for handshakes from then on."""
        alice, bob = (files.authority.issue(name) for name in ("alice", "bob"))
        tls = made(
            ssl_keystore_location=files.keystore,
            ssl_client_auth="required",
            ssl_truststore_location=files.truststore,
        )
        clients = {name: files.context(files.kept(issued)) for name, issued in (("alice", alice), ("bob", bob))}
        handshake(tls, clients["alice"])
        for revoked in ((alice,), (alice, bob)):
            files.truststore.write_text(files.authority.pem + files.authority.revoked(*revoked))
            assert tls.renew()
            with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
                handshake(tls, clients["alice"])
        with pytest.raises(ssl.SSLCertVerificationError, match="certificate revoked"):
            handshake(tls, clients["bob"])
        files.truststore.write_text(files.authority.pem + files.authority.revoked(alice))
        assert tls.renew()
        handshake(tls, clients["bob"])

    def test_lists_as_text_and_those_that_say_nothing(self, files: Files, caplog: pytest.LogCaptureFixture) -> None:
        """Once there is a list, an authority without one vouches for nobody, nor does one whose list has ended, which a
        line says."""
        other = Authority("another")
        texts = files.authority.pem + files.authority.revoked() + other.pem
        keys = {"ssl_keystore_location": files.keystore, "ssl_client_auth": "required"}
        tls = made(**keys, ssl_truststore_certificates=texts)
        handshake(tls, files.context(files.client()))
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get certificate CRL"):
            handshake(tls, files.context(files.client(authority=other)))
        assert not caplog.records

        tls = made(**keys, ssl_truststore_certificates=files.authority.pem + files.authority.revoked(ends=NOW - DAY))
        assert "has ended" in caplog.text
        with pytest.raises(ssl.SSLCertVerificationError, match="CRL has expired"):
            handshake(tls, files.context(files.client()))

    def test_a_list_that_cannot_be_read(self, files: Files) -> None:
        """Refused by name: what was to keep somebody out must not be passed over."""
        broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
        with pytest.raises(ConfigError, match="revocation list number 1 cannot be read"):
            made(
                ssl_keystore_location=files.keystore,
                ssl_client_auth="required",
                ssl_truststore_certificates=files.authority.pem + broken,
            )

    @pytest.mark.parametrize(("days", "level"), [(-1, logging.ERROR), (3, logging.WARNING), (90, None)])
    def test_the_end_of_a_certificate_is_told(
        self, files: Files, caplog: pytest.LogCaptureFixture, days: int, level: int | None
    ) -> None:
        """A start with a certificate that ends soon, or has ended, says so."""
        server = files.authority.issue(ends=NOW + datetime.timedelta(days=days))
        files.keystore.write_text(server.key_pem() + server.pem)
        with caplog.at_level(logging.INFO):
            made(ssl_keystore_location=files.keystore)
        assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
