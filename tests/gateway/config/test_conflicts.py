"""Configuration: keys that are fine alone and not together, and text as it comes from files and environments."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from core.config import LogStore
from gateway.config.addresses import ListenAddress
from gateway.config.layers import ConfigError, Given
from gateway.config.loading import FIELDS, describe, load
from gateway.http.guard import Guard
from gateway.long_term.credentials import find_credentials, find_region
from gateway.network.binding import CannotListen, bind_all
from tests.gateway.forking import run

pytestmark = pytest.mark.slow

SECRET = "s3cr3t-Value"


def refusal(*assignments: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(None, environ or {}, assignments)
    return str(caught.value)


class TestAddresses:
    @pytest.mark.parametrize(
        ("listeners", "http"),
        [
            ("localhost:9094", "localhost:9094"),
            ("127.0.0.1:9094", "localhost:9094"),
            ("[::1]:9094", "localhost:9094"),
            ("0.0.0.0:9094=h", "127.0.0.1:9094"),
            ("*:9094=h", "[::1]:9094"),
            ("[::]:9094=h", "127.0.0.1:9094"),
            ("[::]:9094=h", "somewhere.example:9094"),
            ("127.0.0.1:1,127.0.0.1:1=h:2", "off"),
            ("localhost:1,[::1]:1=h:2", "off"),
            ("0.0.0.0:1=h,10.0.0.1:1=i", "off"),
            ("A.example:1=h,a.example:1=i", "off"),
            ("[::ffff:127.0.0.1]:1=h,127.0.0.1:1=i", "off"),
        ],
    )
    def test_one_port_twice(self, listeners: str, http: str) -> None:
        """Two servers on one port of one address: both may be able to bind, one is never reached."""
        assert "are one port of this machine" in refusal(f"listeners={listeners}", f"http.listen={http}")

    @pytest.mark.parametrize("key", ["cluster.listen", "cluster.http.listen", "cluster.pulse.listen"])
    def test_one_port_for_clients_and_nodes(self, key: str) -> None:
        told = refusal("listeners=127.0.0.1:9094", f"{key}=127.0.0.1:9094")
        assert "are one port of this machine" in told
        assert key in told

    @pytest.mark.parametrize(
        ("listeners", "http"),
        [
            ("localhost:0", "localhost:0"),
            ("127.0.0.1:0,127.0.0.1:0", "127.0.0.1:0"),
            ("127.0.0.1:9092", "[::1]:9092"),
            ("0.0.0.0:9092=h", "[::1]:9092"),
            ("10.0.0.1:9092,10.0.0.2:9092", "10.0.0.3:9092"),
            ("0.0.0.0:9092=localhost:9094", "0.0.0.0:9094"),  # a container, which publishes other ports
        ],
    )
    def test_ports_of_their_own(self, listeners: str, http: str) -> None:
        """The same number on addresses that have nothing in common is no conflict, nor is 0."""
        load(None, {}, (f"listeners={listeners}", f"http.listen={http}"))

    @pytest.mark.parametrize(
        "listeners", ["0.0.0.0:1=h:3,0.0.0.0:2=h:3", "10.0.0.1:1,0.0.0.0:2=10.0.0.1:1", "0.0.0.0:1=h:3,0.0.0.0:2=H:3"]
    )
    def test_told_twice(self, listeners: str) -> None:
        """Clients of two listeners are not told one address: half of them would come back elsewhere."""
        assert "are told the same address" in refusal(f"listeners={listeners}")

    @pytest.mark.parametrize("listener", ["127.0.0.1:1=localhost:9094", "0.0.0.0:1=127.0.0.1:9094"])
    def test_told_the_http_port(self, listener: str) -> None:
        """Kafka clients are not sent to the HTTP server."""
        assert "are told to connect to http.listen = localhost:9094" in refusal(f"listeners={listener}")

    @pytest.mark.parametrize(
        ("assignments", "said"),
        [
            (
                ("listeners=127.0.0.1:9092,127.0.0.1:9093", "http.listen=off"),
                ("listeners (", "with the ports of worker 1 of workers = 2"),
            ),
            (("listeners=127.0.0.1:65535",), ("127.0.0.1:65536: ports end at 65535",)),
            (("listeners=0.0.0.0:1=h:5,0.0.0.0:9=h:6",), ("h:6", "are told the same address")),
        ],
    )
    def test_ports_of_workers(self, assignments: tuple[str, ...], said: tuple[str, ...]) -> None:
        """The ports of all workers are judged, not of the first one alone."""
        load(None, {}, assignments)
        told = refusal("workers=2", *assignments)
        assert [text for text in said if text not in told] == []

    def test_defaults_of_workers(self) -> None:
        """As many workers as a machine may have start with what a new user has."""
        load(None, {}, ("workers=16",))

    def test_names_of_one_address(self) -> None:
        """The addresses of two names are known when they are bound; equal ones are refused then."""
        port = bind_all([ListenAddress("127.0.0.1", 0)])[0]
        port.close()
        with pytest.raises(CannotListen, match="twice"):
            bind_all(
                [
                    ListenAddress("127.0.0.1", port.port),
                    ListenAddress("127.0.0.2", port.port, "h"),
                    ListenAddress("localhost", port.port, "i"),
                ]
            )


class TestBounds:
    def test_nobody_could_connect(self) -> None:
        """`max.connections.per.ip=0` is for those who name exceptions, as in Kafka."""
        assert "nobody could connect" in refusal("max.connections.per.ip=0")

        load(None, {}, ("max.connections.per.ip=0", "max.connections.per.ip.overrides=127.0.0.1:5,::1:7"))

    @pytest.mark.parametrize("overrides", ["h", "h:", ":5", "h:-1", "h:x", "h:2147483648", "h:1 i:2", "a/b:3"])
    def test_overrides(self, overrides: str) -> None:
        """HOST:COUNT, and nothing else."""
        assert "HOST:COUNT" in refusal(f"max.connections.per.ip.overrides={overrides}")

    def test_a_certificate_without_encryption(self) -> None:
        """Certificates are meant to be checked: without TLS they would not be."""
        bucket = ("tier2=s3://b", "tier2.ca.file=/ca.pem")
        assert "nothing is encrypted" in refusal(*bucket, "tier2.endpoint=http://h")

        load(None, {}, (*bucket, "tier2.endpoint=https://h"))

    @pytest.mark.parametrize(
        "place",
        [
            "{0}",
            "{0}/a",
            "{0}/a/data",
            "{0}/a/data/store/x",
            "{0}/a/data/tier2-cache",
            "{0}/link",
            "{0}/a/data/recovering",
        ],
    )
    def test_one_directory_in_the_other(self, tmp_path: Path, place: str) -> None:
        """Objects lie neither around the data directory nor in its own parts, whatever links say."""
        data = tmp_path / "a" / "data"
        data.mkdir(parents=True)
        (tmp_path / "link").symlink_to(data)

        assert "tier2 = file:" in refusal(f"data.dir={data}", f"tier2=file:{place.format(tmp_path)}")

    def test_directories_beside_one_another(self, tmp_path: Path) -> None:
        """Beside the data directory, or in a directory of its own below it."""
        for place in (tmp_path / "objects", tmp_path / "data" / "objects", tmp_path / "data-2"):
            load(None, {}, (f"data.dir={tmp_path / 'data'}", f"tier2=file:{place}"))


class TestText:
    def test_nothing_in_a_variable(self) -> None:
        """A variable without text is one that is not set, for every key, however it is typed."""
        environ = {f"PENSTOCK_{key.upper().replace('.', '_')}": blank for key in FIELDS for blank in ("",)}
        blanks = dict.fromkeys(environ, " \n")

        for variables in (environ, blanks, {"PENSTOCK_NO_SUCH_KEY": ""}):
            assert {row["source"] for row in describe(load(None, variables))} == {"default"}

    @pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"])
    def test_what_all_programs_are_told(self, name: str) -> None:
        """The usual names of credentials and region are read like our own: trimmed, empty is not set."""
        config = load(None, {}, ("tier2=s3://b",))
        environ = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}

        def both(variables: dict[str, str]) -> None:
            find_credentials(config, variables)
            find_region(config, variables)

        assert find_region(config, {"AWS_REGION": " eu \n"}) == "eu"
        assert find_credentials(config, environ | {"AWS_SESSION_TOKEN": " \n"}).session_token is None
        assert find_credentials(config, {key: f"{value}\r\n" for key, value in environ.items()}).secret_key == "s"
        with pytest.raises(ConfigError, match=f"environment {name}") as caught:
            both(environ | {name: f"{SECRET}\n2"})
        assert SECRET not in str(caught.value)

    def test_a_last_line(self, tmp_path: Path) -> None:
        """The line end of a file or a variable is no part of a secret, nor of anything else."""
        file = tmp_path / "penstock.toml"
        file.write_text(f'http.token = """{SECRET}\n"""\nhttp.hosts = [" a\\n"]\n')
        config = load(
            file,
            {
                "PENSTOCK_TIER2_SECRET_KEY": f"{SECRET}\r\n",
                "PENSTOCK_TIER2_ACCESS_KEY": "k\n",
                "PENSTOCK_DATA_DIR": "/d\n",
                "PENSTOCK_LOG_SYNC_MODE": "interval\n",
            },
        )

        assert config.http_token is not None
        assert config.http_token.get_secret_value() == SECRET
        assert config.tier2_secret_key is not None
        assert config.tier2_secret_key.get_secret_value() == SECRET
        assert (str(config.data_dir), config.log_sync_mode, config.http_hosts) == ("/d", "interval", ("a",))

    @pytest.mark.parametrize("key", ["http.token", "tier2.secret.key", "tier2.region", "data.dir", "http.hosts"])
    @pytest.mark.parametrize("between", ["\n", "\0", "\x7f", "\u2028"])
    def test_within_text(self, key: str, between: str) -> None:
        """Two lines are no value: the key is named, a secret is not shown."""
        told = refusal(f"{key}=a{between}{SECRET}")

        assert told.startswith(f"{key} = ")
        assert "control character" in told
        assert (SECRET in told) == (key not in ("http.token", "tier2.secret.key"))

    @pytest.mark.parametrize("mark", ["\ufeff", ""])
    def test_a_byte_order_mark(self, tmp_path: Path, mark: str) -> None:
        """Files that some editors write are read, those of credentials too."""
        config_file, credentials = tmp_path / "penstock.toml", tmp_path / "credentials"
        config_file.write_text(f'{mark}tier2 = "s3://b"\r\ntier2.credentials.file = "{credentials}"\r\n')
        credentials.write_text(f"{mark}[default]\r\naws_access_key_id = k\r\naws_secret_access_key = {SECRET}\r\n")

        assert find_credentials(load(config_file, {}), {}).secret_key == SECRET

    def test_two_lines_in_a_credentials_file(self, tmp_path: Path) -> None:
        """The file, its section and the key are named, and nothing of it is quoted."""
        credentials = tmp_path / "credentials"
        credentials.write_text(f"[default]\naws_access_key_id = k\naws_secret_access_key = {SECRET}\n  more\n")
        config = load(None, {}, ("tier2=s3://b", f"tier2.credentials.file={credentials}"))
        with pytest.raises(ConfigError, match="aws_secret_access_key: it holds a line break") as caught:
            find_credentials(config, {})
        assert SECRET not in str(caught.value)


class TestSecrets:
    @pytest.mark.parametrize(
        "assignment",
        [
            f"http.token {SECRET}",
            f"http.token:{SECRET}",
            SECRET,
            f"htp.tokn={SECRET}",
            f"tier2.secret-key={SECRET}",
            f"tier2.passphrase={SECRET}",
            f"http.token={SECRET}\n1",
            f"http.token={SECRET}é",
            f"listeners=http://user:{SECRET}@host:1",
            f"tier2.endpoint=http://user:{SECRET}@host",
            f"tier2.secret.key={SECRET}",
        ],
    )
    def test_messages(self, assignment: str) -> None:
        """No message shows one, whatever was mistyped around it; neither does the traceback of the error."""
        with pytest.raises(ConfigError) as caught:
            load(None, {}, (assignment,))

        assert SECRET not in "".join(traceback.format_exception(caught.value))

    def test_reprs(self) -> None:
        """No object that holds one shows it."""
        config = load(None, {}, (f"http.token={SECRET}", f"tier2.access.key={SECRET}", f"tier2.secret.key={SECRET}"))

        shown = (config, Guard(loopback=True, token=SECRET), find_credentials(config, {}), describe(config))
        assert SECRET not in repr(shown)

    def test_wrong_type(self, tmp_path: Path) -> None:
        """A number where a secret belongs is refused without being shown."""
        file = tmp_path / "penstock.toml"
        file.write_text("http.token = 31415926\n")
        with pytest.raises(ConfigError) as caught:
            load(file, {}, flags={"num.partitions": Given("many", "--x")})
        assert "31415926" not in "".join(traceback.format_exception(caught.value))


class TestLogInObjects:
    """The data directory may vanish: whatever it alone would hold is refused."""

    @pytest.mark.parametrize(
        ("assignments", "said"),
        [
            (("tier2=off",), "it needs long-term storage"),
            (("tier2=file",), "lies in the data directory"),
            (("tier2=s3://b", "workers=2"), "workers = 2 (--set): what workers share is on this disk"),
            (
                (
                    "tier2=s3://b",
                    "listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT",
                    "sasl.enabled.mechanisms=SCRAM-SHA-256",
                ),
                "SCRAM-SHA-256 keeps credentials in the log",
            ),
        ],
    )
    def test_refused(self, assignments: tuple[str, ...], said: str) -> None:
        assert said in refusal("log.store=object", *assignments)

    def test_a_cluster_keeps_users_in_etcd(self) -> None:
        sasl = "listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT", "sasl.enabled.mechanisms=SCRAM-SHA-256"
        assert load(None, {}, ("cluster=etcd://127.0.0.1/c", "tier2=s3://b", *sasl)).log_store == "object"

    def test_allowed(self) -> None:
        settings = load(None, {}, ("log.store=object", "tier2=s3://b", "log.object.linger.ms=20")).store_config()
        assert settings.log_store is LogStore.OBJECT
        assert (settings.log_object_linger_ms, settings.log_object_inflight) == (20, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["penstock.toml", "data/penstock.json", "data/store/lock", "link"])
def test_a_ready_file_in_the_way(tmp_path: Path, name: str) -> None:
    """Files that Penstock keeps or reads are not removed for a ready file."""
    config = tmp_path / "penstock.toml"
    config.write_text(f'data.dir = "{tmp_path}/data"\nhttp.listen = "off"\nlisteners = ["127.0.0.1:0"]\n')
    (tmp_path / "data" / "store").mkdir(parents=True)
    (tmp_path / "link").symlink_to(config)
    for path in (tmp_path / "data/penstock.json", tmp_path / "data/store/lock"):
        path.write_text("kept")

    ended = run("serve", "--config", str(config), "--ready-file", str(tmp_path / name))

    assert (ended.returncode, "uses for something else" in ended.stderr) == (2, True), ended.stderr
    assert (tmp_path / name).exists()
