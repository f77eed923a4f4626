"""Listeners with names: what each means, its own keys, and combinations that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.layers import ConfigError
from gateway.config.loading import load
from gateway.config.security import SecurityProtocol

SECRET = "s3cr3t"
PLAIN = f'PlainLoginModule required user_a="{SECRET}";'


def refusal(*assignments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(None, {}, assignments)
    return str(caught.value)


class TestNames:
    def test_the_four_protocols_mean_themselves(self) -> None:
        """SSL:// needs no entry in the map; a bare address is PLAINTEXT."""
        config = load(None, {}, ["listeners=SSL://h:1,i:2", "ssl.keystore.location=/k.pem"])
        assert [address.name for address in config.kafka_listeners] == ["SSL", "PLAINTEXT"]
        assert config.protocol_of("SSL") is SecurityProtocol.SSL

    def test_a_name_of_ones_own(self) -> None:
        """`listener.security.protocol.map` says what it means; names have no case."""
        config = load(
            None,
            {},
            [
                "listeners=internal://h:1",
                "listener.security.protocol.map=INTERNAL:SASL_PLAINTEXT",
                "sasl.enabled.mechanisms=scram-sha-512",
            ],
        )
        assert config.protocol_of("INTERNAL") is SecurityProtocol.SASL_PLAINTEXT
        assert config.security_of("INTERNAL").sasl_enabled_mechanisms == ("SCRAM-SHA-512",)

    def test_advertised_listeners(self) -> None:
        """Each listener's clients are told its address there; an empty host is every interface."""
        config = load(
            None,
            {},
            [
                "listeners=SSL://:9093,PLAINTEXT://0.0.0.0:9092",
                "advertised.listeners=PLAINTEXT://in.example:1,SSL://out.example:2",
                "ssl.keystore.location=/k.pem",
            ],
        )
        assert [str(address) for address in config.kafka_listeners] == [
            "SSL://*:9093=out.example:2",
            "0.0.0.0:9092=in.example:1",
        ]

    @pytest.mark.parametrize(
        ("assignments", "told"),
        [
            (["listeners=INTERNAL://h:1"], "nothing says how INTERNAL is secured"),
            (["listeners=SSL://h:1,ssl://i:2", "ssl.keystore.location=/k"], "SSL is the name of two listeners"),
            (["listeners=PLAINTEXT://:9092"], "or name it in advertised.listeners, as PLAINTEXT://HOST:PORT"),
            (["advertised.listeners=OTHER://h:1"], "listeners has no OTHER"),
            (["advertised.listeners=PLAINTEXT://0.0.0.0:1"], "no client can dial"),
            (["advertised.listeners=h:1"], "is not NAME://HOST:PORT"),
            (["listener.security.protocol.map=A:B"], "is not NAME:PROTOCOL"),
            (["listener.security.protocol.map=A:SSL,a:SSL"], "stands there twice"),
            (["listeners=SSL://h:1"], "it needs ssl.keystore.location"),
            (
                ["listeners=SSL://h:1", "ssl.keystore.location=/k", "ssl.client.auth=required"],
                "it needs ssl.truststore.location",
            ),
            (["listeners=SASL_PLAINTEXT://h:1"], "it needs sasl.enabled.mechanisms"),
            (["listeners=SASL_PLAINTEXT://h:1", "sasl.enabled.mechanisms=PLAIN"], "it needs its users"),
            (["listeners=SASL_PLAINTEXT://h:1", "sasl.enabled.mechanisms=OAUTHBEARER"], "jwks.endpoint.url"),
            (["sasl.enabled.mechanisms=GSSAPI"], "allowed: PLAIN, SCRAM-SHA-256"),
            (["ssl.keystore.type=JKS"], "Penstock reads PEM"),
            (["ssl.enabled.protocols=TLSv1.1"], "allowed: TLSv1.2, TLSv1.3"),
            (["ssl.enabled.protocols="], "allowed: TLSv1.2, TLSv1.3"),
            (["sasl.oauthbearer.jwks.endpoint.url=http://h/k"], "begins with https:// or file:///"),
        ],
    )
    def test_refusals(self, assignments: list[str], told: str) -> None:
        """A configuration that cannot work ends the start with what is missing."""
        assert told in refusal(*assignments)


class TestOwnKeys:
    def test_they_are_stronger_than_the_common_ones(self) -> None:
        """`listener.name.NAME.KEY`, NAME in lower case; a listener without one has the common value."""
        config = load(
            None,
            {},
            [
                "listeners=SSL://h:1,PARTNERS://h:2",
                "listener.security.protocol.map=PARTNERS:SSL",
                "ssl.keystore.location=/k.pem",
                "ssl.truststore.location=/t.pem",
                "listener.name.partners.ssl.client.auth=REQUIRED",
                "listener.name.partners.ssl.keystore.location=/p.pem",
            ],
        )
        assert config.security_of("SSL").ssl_client_auth == "none"
        assert config.security_of("PARTNERS").ssl_client_auth == "required"
        assert config.security_of("PARTNERS").ssl_keystore_location == Path("/p.pem")
        assert config.security_of("PARTNERS").ssl_truststore_location == Path("/t.pem")

    def test_kafkas_form_with_the_mechanism(self) -> None:
        """Users of PLAIN are given by listener and mechanism; other mechanisms' login modules name nobody."""
        config = load(
            None,
            {},
            [
                "listeners=SASL_PLAINTEXT://h:1",
                "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256",
                f"listener.name.sasl_plaintext.plain.sasl.jaas.config={PLAIN}",
                "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=ScramLoginModule required;",
            ],
        )
        users = config.security_of("SASL_PLAINTEXT").sasl_jaas_config
        assert users is not None
        assert users.get_secret_value() == PLAIN
        assert SECRET not in repr(config)

    @pytest.mark.parametrize(
        ("assignment", "told"),
        [
            ("listener.name.plaintext.log.dirs=x", "for one listener can be set"),
            ("listener.name.other.ssl.client.auth=none", "there is no listener OTHER"),
            ("listener.name.plaintext.ssl.client.auth=perhaps", "allowed: none, requested, required"),
            ("listener.name.plaintext.ssl.client.auth=\x01", "control character"),
        ],
    )
    def test_refusals(self, assignment: str, told: str) -> None:
        """Unknown listeners, keys that are not a listener's own, and values that are not allowed."""
        assert told in refusal(assignment)

    def test_secrets_are_in_no_message(self) -> None:
        """Whatever is wrong with them."""
        said = refusal(f"listener.name.plaintext.ssl.key.password={SECRET}\x01", f"listener.name.x.y={SECRET}")
        assert SECRET not in said
