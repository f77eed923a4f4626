"""`penstock debug bundle`: what is in the archive, and that no secret is."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from gateway.cli import debug_bundle
from gateway.cli.debug_bundle import LOG_BYTES_MAX, Hidden, make
from gateway.cli.refused import Refused
from gateway.config.loading import load
from gateway.config.secrets import SECRET_KEYS
from tests.gateway.cli.doctor.test_doctor import free_port
from tests.gateway.forking import run, serving
from tests.gateway.security.certificates import make as make_certificates

SECRET: Final = 'S3cr3t"\\value/+=x, as long as any has to be'
PAIR: Final = {"tier2.access.key": "tier2.secret.key", "tier2.secret.key": "tier2.access.key"}
"""Keys that are given together."""
BESIDE: Final = {
    "etcd.password": {"etcd.user": "ann"},
    "etcd.key.password": {"etcd.key.file": "a.key", "etcd.cert.file": "a.pem"},
}
"""Others that a secret makes no sense without."""


def members(archive: Path) -> dict[str, bytes]:
    """The content of each member, by its name below the archive's one directory."""
    with tarfile.open(archive) as opened:
        return {name.partition("/")[2]: opened.extractfile(name).read() for name in opened.getnames()}  # type: ignore[union-attr]


def bundle(directory: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> dict[str, bytes]:
    archive = directory / "bundle.tar.gz"
    flags = ("--data-dir", str(directory / "data"), "--output", str(archive))
    done = run("debug", "bundle", *flags, *arguments, environ=environ)
    assert done.returncode == 0, done.stderr
    assert archive.stat().st_mode & 0o077 == 0
    found = members(archive)
    for name in found:
        assert name in done.stdout
    return found


def check_hidden(found: Mapping[str, bytes], *secrets: str) -> None:
    """No form of a secret is in a member, and the log that has them shows where they were."""
    for name, content in found.items():
        for secret in secrets:
            for form in (secret, json.dumps(secret)[1:-1]):
                assert form.encode() not in content, (name, form)
    assert found["log.txt"].count(b"[hidden]") >= len(secrets)


def log_of(directory: Path, secrets: Sequence[str]) -> tuple[str, ...]:
    """A log that tells all of them, plainly and as JSON."""
    log = directory / "the.log"
    log.write_text("".join(f"plain {one}\n{json.dumps({'error': one})}\n" for one in secrets) + "the end\n")
    return ("--log", str(log))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["flag", "environment", "toml", "properties", "file"])
@pytest.mark.parametrize("key", SECRET_KEYS)
def test_secrets(tmp_path: Path, key: str, way: str) -> None:
    """No value of a secret key is in any member, whichever way it was given."""
    keys = {one: f"{n}{SECRET}" for n, one in enumerate(filter(None, (key, PAIR.get(key))))}
    arguments: list[str] = ["--listen", "127.0.0.1:0", "--http", "off"]
    for other, value in BESIDE.get(key, {}).items():
        arguments += ["--set", f"{other}={value}"]
    environ: dict[str, str] = {}
    lines = []
    for n, (name, value) in enumerate(keys.items()):
        match way:
            case "flag":
                arguments += ["--set", f"{name}={value}"]
            case "environment":
                environ[f"PENSTOCK_{name.upper().replace('.', '_')}"] = value
            case "toml":
                lines.append(f"{json.dumps(name)} = {json.dumps(value)}\n")
            case "properties":
                lines.append(f"{name}={value.replace(chr(92), chr(92) * 2)}\n")
            case "file":
                (tmp_path / f"secret-{n}").write_text(f"{value}\n")
                arguments += ["--set", f"{name}.file={tmp_path / f'secret-{n}'}"]
    if lines:
        file = tmp_path / ("p.toml" if way == "toml" else "p.properties")
        file.write_text("".join(lines))
        arguments += ["--config", str(file)]
    found = bundle(tmp_path, *arguments, *log_of(tmp_path, list(keys.values())), environ=environ)

    check_hidden(found, *keys.values())
    if way != "file":
        assert {row["key"]: row["value"] for row in json.loads(found["config.json"])}[key] == "[hidden]"


@pytest.mark.slow
def test_secrets_of_one_listener(tmp_path: Path) -> None:
    """A listener's own key, its password, and users in a JAAS text are hidden as well."""
    files = make_certificates(tmp_path)
    key = files.server.key_pem("listener-password-1")
    jaas = 'PlainLoginModule required user_ann="ann-password-2" user_bob="bob-password-3";'
    (tmp_path / "p.toml").write_text(
        'listeners = ["IN://127.0.0.1:0"]\n"listener.security.protocol.map" = "IN:SASL_SSL"\n'
        '"sasl.enabled.mechanisms" = ["PLAIN"]\n'
        f'"listener.name.in.ssl.key.password" = "listener-password-1"\n'
        f'"listener.name.in.ssl.keystore.key" = {json.dumps(key)}\n'
        f'"listener.name.in.ssl.keystore.certificate.chain" = {json.dumps(files.server.pem)}\n'
        f'"listener.name.in.plain.sasl.jaas.config" = {json.dumps(jaas)}\n'
    )
    secrets = ["listener-password-1", "ann-password-2", "bob-password-3", key.splitlines()[3]]
    flags = ("--config", str(tmp_path / "p.toml"), "--http", "off")
    check_hidden(bundle(tmp_path, *flags, *log_of(tmp_path, secrets)), *secrets)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["environment", "file"])
def test_credentials_of_amazon(tmp_path: Path, way: str) -> None:
    """Credentials under Amazon's names are secrets, too."""
    access, secret, token = "AKIAEXAMPLE7", "aws-secret-8", "aws-token-9"
    flags: tuple[str, ...] = ("--listen", "127.0.0.1:0", "--http", "off")
    environ = {}
    if way == "environment":
        environ = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}
    else:
        text = f"[default]\naws_access_key_id={access}\naws_secret_access_key={secret}\naws_session_token={token}\n"
        (tmp_path / "credentials").write_text(text)
        flags += ("--set", f"tier2.credentials.file={tmp_path / 'credentials'}")
    found = bundle(tmp_path, *flags, *log_of(tmp_path, [access, secret, token]), environ=environ)
    check_hidden(found, access, secret, token)


@pytest.mark.slow
def test_of_a_running_gateway(tmp_path: Path) -> None:
    """Metrics and totals of the gateway, its data files without their contents, versions, findings."""
    flags = ("--listen", f"127.0.0.1:{free_port()}", "--http", f"127.0.0.1:{free_port()}")
    with serving(tmp_path, *flags) as gateway:
        gateway.ready()
        found = bundle(tmp_path, *flags, "--log", str(gateway.err))
        assert gateway.terminate() == 0

    assert set(found) == {
        *("config.json", "versions.json", "files.json", "metrics.txt", "overview.json", "doctor.json", "log.txt")
    }
    assert b"\npenstock_" in found["metrics.txt"]
    assert json.loads(found["overview.json"])["phase"] == "serving"
    assert json.loads(found["versions.json"])["packages"]["kio"]
    assert any(one["file"].endswith("penstock.json") for one in json.loads(found["files.json"]))
    assert {one["level"] for one in json.loads(found["doctor.json"])} <= {"ok", "warning"}
    assert found["log.txt"] == gateway.err.read_bytes()[: len(found["log.txt"])]


def test_bounds(tmp_path: Path) -> None:
    """Of a long log the end is taken, from a whole line on."""
    log = tmp_path / "log"
    log.write_bytes(b"first\n" + b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * (LOG_BYTES_MAX // 100 + 1))
    tail = debug_bundle._tail(log)
    assert LOG_BYTES_MAX - 200 < len(tail) <= LOG_BYTES_MAX
    assert set(tail) == {"y", "\n"}
    assert tail.startswith("y" * 99 + "\n")


def test_existing_file(tmp_path: Path) -> None:
    """No file is replaced."""
    (tmp_path / "there").write_text("mine")
    with pytest.raises(Refused, match="is there already"):
        make(load(None, {}, (f"data.dir={tmp_path / 'data'}",)), tmp_path / "there", None)
    assert (tmp_path / "there").read_text() == "mine"


def test_no_such_log(tmp_path: Path) -> None:
    """A log that cannot be read is refused before anything is made."""
    with pytest.raises(Refused, match="cannot be read"):
        make(load(None, {}, (f"data.dir={tmp_path / 'data'}",)), tmp_path / "a", tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_longest_first() -> None:
    """A secret that begins another one leaves nothing of it."""
    hidden = Hidden(load(None, {}, ("http.token=abc", "tier2.access.key=k", "tier2.secret.key=abcdef")))
    assert hidden.out_of("abcdef abc") == "[hidden] [hidden]"
