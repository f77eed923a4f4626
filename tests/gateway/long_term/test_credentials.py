"""The credentials for the S3 store: the place that wins, and the message if there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.layers import ConfigError
from gateway.config.loading import load
from gateway.long_term.credentials import Credentials, find_credentials, find_region
from gateway.long_term.opening import check_settings

AWS = {"AWS_ACCESS_KEY_ID": "aws-key", "AWS_SECRET_ACCESS_KEY": "aws-secret", "AWS_SESSION_TOKEN": "aws-token"}
OWN = {"PENSTOCK_TIER2_ACCESS_KEY": "own-key", "PENSTOCK_TIER2_SECRET_KEY": "own-secret"}
SECTION = "[{}]\naws_access_key_id = file-key\naws_secret_access_key = file-secret\n"


def found(environ: dict[str, str], *assignments: str) -> Credentials:
    return find_credentials(load(None, environ, ("tier2=s3://b", *assignments)), environ)


def keys(credentials: Credentials) -> tuple[str, str, str | None]:
    return credentials.access_key, credentials.secret_key, credentials.session_token


def file_with(tmp_path: Path, text: str) -> str:
    path = tmp_path / "credentials"
    path.write_text(text)
    return f"tier2.credentials.file={path}"


class TestOrder:
    def test_own_names_win(self, tmp_path: Path) -> None:
        """Credentials set for Penstock win over a file and over those that all programs get."""
        assert keys(found(AWS | OWN, file_with(tmp_path, SECTION.format("default")))) == (
            *("own-key", "own-secret"),
            None,
        )

    def test_configuration_file(self, tmp_path: Path) -> None:
        """The same keys in TOML."""
        toml = tmp_path / "p.toml"
        toml.write_text('tier2 = "s3://b"\ntier2.access.key = "k"\ntier2.secret.key = "s"\n')

        assert keys(find_credentials(load(toml, AWS), AWS)) == ("k", "s", None)

    def test_file(self, tmp_path: Path) -> None:
        """A file that was named wins over the environment that all programs see."""
        assert keys(found(AWS, file_with(tmp_path, SECTION.format("default")))) == ("file-key", "file-secret", None)

    def test_own_section(self, tmp_path: Path) -> None:
        """Section [penstock] wins over [default], with its session token."""
        own = SECTION.format("penstock").replace("file-", "own-") + "aws_session_token = own-token\n"

        assert keys(found({}, file_with(tmp_path, SECTION.format("default") + own))) == (
            *("own-key", "own-secret"),
            "own-token",
        )

    def test_usual_names(self) -> None:
        """AWS's names are taken when nothing else was said; the token belongs to them alone."""
        assert keys(found(AWS)) == ("aws-key", "aws-secret", "aws-token")

    def test_region(self) -> None:
        """The configured region, else AWS_REGION, else AWS_DEFAULT_REGION, else none."""
        both = {"AWS_REGION": "r1", "AWS_DEFAULT_REGION": "r2"}

        assert find_region(load(None, {}, ["tier2.region=own"]), both) == "own"
        assert find_region(load(None, {}), both) == "r1"
        assert find_region(load(None, {}), {"AWS_DEFAULT_REGION": "r2"}) == "r2"
        assert find_region(load(None, {}), {}) is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("environ", "said"),
        [
            ({}, "there are no credentials: set PENSTOCK_TIER2_ACCESS_KEY and PENSTOCK_TIER2_SECRET_KEY"),
            ({"AWS_ACCESS_KEY_ID": "k"}, "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not"),
            ({"AWS_SECRET_ACCESS_KEY": "hunter2"}, "AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not"),
        ],
    )
    def test_environment(self, environ: dict[str, str], said: str) -> None:
        """None, or half of a pair."""
        with pytest.raises(ConfigError) as caught:
            found(environ)
        assert said in str(caught.value)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[default]\naws_access_key_id = k\n", "section [default] has no aws_secret_access_key"),
            ("[default]\naws_secret_access_key = hunter2\n", "section [default] has no aws_access_key_id"),
            ("[other]\naws_access_key_id = k\n", "neither section [penstock] nor [default]"),
            ("aws_secret_access_key = hunter2\n", "is not a file of sections and keys in line 1"),
            ("[default]\nhunter2\n", "is not a file of sections and keys"),
        ],
        ids=["no secret", "no key", "no section of ours", "no section", "no key and value"],
    )
    def test_file(self, tmp_path: Path, text: str, said: str) -> None:
        """A useless file is named, its content is not quoted."""
        with pytest.raises(ConfigError) as caught:
            found(AWS, file_with(tmp_path, text))
        assert said in str(caught.value)
        assert str(tmp_path) in str(caught.value)
        assert "hunter2" not in str(caught.value)

    def test_no_file(self) -> None:
        """A file that is not there is not silently left out."""
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            found(AWS, "tier2.credentials.file=/nowhere")

    @pytest.mark.parametrize(
        ("assignments", "said"),
        [
            (("tier2=s3://B_",), "not a bucket's name: 'B_'"),
            (("tier2=s3://bucket/a//b",), "not a prefix for keys"),
            (("tier2=s3://bucket", "tier2.ca.file=/nowhere"), "tier2.ca.file = /nowhere: is not there"),
            (("tier2=s3://bucket", "tier2.ca.file=/dev/null"), "tier2.ca.file: /dev/null: it has no certificate"),
        ],
    )
    def test_before_anything_is_asked(self, assignments: tuple[str, ...], said: str) -> None:
        """Credentials that cannot be right are refused before the data directory is touched."""
        with pytest.raises(ConfigError) as caught:
            check_settings(load(None, {}, assignments), AWS)
        assert said in str(caught.value)

    def test_the_usual_authorities(self) -> None:
        """SSL_CERT_FILE stands in for tier2.ca.file, and is named if it vouches for nobody; plain HTTP needs none."""
        environ = AWS | {"SSL_CERT_FILE": "/dev/null"}
        with pytest.raises(ConfigError, match="SSL_CERT_FILE: /dev/null: it has no certificate"):
            check_settings(load(None, {}, ("tier2=s3://bucket",)), environ)
        check_settings(load(None, {}, ("tier2=s3://bucket", "tier2.endpoint=http://127.0.0.1:9000")), environ)


def test_nothing_is_shown() -> None:
    """Neither repr nor text of credentials has any of them."""
    shown = f"{found(AWS)!r} {found(AWS)}"

    assert "aws-" not in shown
