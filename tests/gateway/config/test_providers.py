"""`${file:…}`, `${dir:…}` and `${env:…}`: values that lie elsewhere, and messages that show none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.layers import ConfigError
from gateway.config.loading import load, secret_files_of
from gateway.config.providers import PROPERTIES_BYTES_MAX, readable_by_others
from tests.gateway.apis.harness import admin_of

SECRET = "wonder-land"
INVALID_CONFIG = 40


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    (tmp_path / "all.properties").write_text(f"# ours\ntoken={SECRET}\nhost = localhost\nnested=${{env:HOME}}\n")
    (tmp_path / "alone").write_text(f"{SECRET}\n")
    return tmp_path


def test_each_kind(secrets: Path) -> None:
    """A property, a file, a variable; alone or within a text, in any layer, once."""
    file = secrets / "penstock.toml"
    file.write_text(
        f'http.token = "${{file:{secrets}/all.properties:token}}"\nsuper.users = "User:${{env:WHO}};User:b"\n'
    )
    host = f"${{file:{secrets}/all.properties:host}}"
    assigned = [f"delegation.token.secret.key=${{dir:{secrets}:alone}}", f"http.hosts=a,{host}"]
    config = load(file, {"WHO": "admin"}, assigned)
    assert config.http_token is not None
    assert config.http_token.get_secret_value() == SECRET
    assert config.delegation_token_secret_key is not None
    assert config.delegation_token_secret_key.get_secret_value() == SECRET
    assert config.super_users == "User:admin;User:b"
    assert config.http_hosts == ("a", "localhost")
    assert config.source_of("http.token") == f"file {file}, with values from elsewhere"
    assert set(secret_files_of(config)) == {secrets / "all.properties", secrets / "alone"}


def test_once(secrets: Path) -> None:
    """What was put in is not looked through again."""
    config = load(
        environ={"HOME": "/root"}, assignments=[f"super.users=User:${{file:{secrets}/all.properties:nested}}"]
    )
    assert config.super_users == "User:${env:HOME}"


def test_a_listeners_own_key(secrets: Path) -> None:
    """Keys of one listener, too."""
    config = load(
        environ={},
        assignments=[
            "listeners=SASL_PLAINTEXT://localhost:9092",
            "sasl.enabled.mechanisms=PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config="
            f'PlainLoginModule required user_a="${{dir:{secrets}:alone}}";',
        ],
    )
    jaas = config.security_of("SASL_PLAINTEXT").sasl_jaas_config
    assert jaas is not None
    assert SECRET in jaas.get_secret_value()


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("${file:%s/all.properties:none}", "the file has no such key"),
        ("${file:%s/none:token}", "No such file"),
        ("${file:%s/all.properties}", "the file cannot be read|allowed"),
        ("${file:all}", "allowed: "),
        ("${dir:%s:none}", "cannot be read"),
        ("${dir:%s:../alone}", "the name of a file in the directory"),
        ("${env:NOT_THERE}", "no such variable"),
        ("${env:not a name}", "no such variable"),
    ],
)
def test_what_is_not_there(secrets: Path, place: str, why: str) -> None:
    """The message names key, source and place, and nothing of what the files hold."""
    value = place % secrets if "%s" in place else place
    with pytest.raises(ConfigError, match=why) as refused:
        load(environ={}, assignments=[f"http.token={value}"])
    assert "http.token (--set)" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_large_files(secrets: Path) -> None:
    """A file is bounded."""
    (secrets / "large").write_bytes(b"#" * (PROPERTIES_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        load(environ={}, assignments=[f"http.token=${{file:{secrets}/large:a}}"])


def test_who_may_read(secrets: Path) -> None:
    """Files that every user of the machine may read are named."""
    (secrets / "all.properties").chmod(0o644)
    (secrets / "alone").chmod(0o640)
    files = [secrets / "all.properties", secrets / "alone", secrets / "none"]
    assert list(readable_by_others(files)) == [secrets / "all.properties"]


def test_never_over_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that comes by Kafka's protocol is taken as it stands (the kind of CVE-2024-31141)."""
    monkeypatch.setenv("A_NUMBER", "1234567")
    with admin_of(tmp_path) as admin:
        config = {"name": "retention.ms", "config_operation": 0, "value": "${env:A_NUMBER}"}
        resource = {"resource_type": 2, "resource_name": admin.create(), "configs": [config]}
        (answer,) = admin.ask("IncrementalAlterConfigs", 1, resources=[resource]).responses
        assert (answer.error_code, "1234567" in (answer.error_message or "")) == (INVALID_CONFIG, False)
