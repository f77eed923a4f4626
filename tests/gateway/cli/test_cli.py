"""The `penstock` command: its output, its refusals, and its ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import tomllib
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from gateway import __version__
from gateway.broker import STOP_GRACE_S
from tests.faults.client import Connection
from tests.gateway.launching import run, serving

pytestmark = pytest.mark.slow


def produce(address: str, *values: str, topic: str = "t") -> None:
    producer = Producer({"bootstrap.servers": address, "message.timeout.ms": 10_000})
    for value in values:
        producer.produce(topic, value, partition=0)
    assert producer.flush(15) == 0


def consume(address: str, count: int, topic: str = "t") -> list[str]:
    consumer = Consumer({"bootstrap.servers": address, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    messages = consumer.consume(count, timeout=15)
    consumer.close()
    return [message.value().decode() for message in messages]


def told_by(address: str) -> str:
    """The address that a client at this address gets."""
    broker = AdminClient({"bootstrap.servers": address}).list_topics(timeout=10).brokers[1]
    return f"{broker.host}:{broker.port}"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("topcs list", "no such command 'topcs'. Did you mean 'topics'?; `penstock --help` tells more"),
        (
            "topics list --bootstrp x",
            "no such option: --bootstrp (Possible options: --bootstrap); `penstock topics list",
        ),
        ("topics describe t", "no such command 'describe'. Did you mean 'show'?; `penstock topics --help`"),
        ("streams list", "no such command 'list'. Did you mean 'ls'?; `penstock streams --help`"),
        ("topics create --topic t", "no such option: --topic (name the topic without a flag); `penstock topics create"),
        ("serve --port 1", "no such option: --port (an address for Kafka's clients is given by --listen HOST:PORT);"),
        ("serve --log.store object", "no such option: --log.store (a key: --set log.store=VALUE);"),
        ("groups reset g", "missing option '--to'; `penstock groups reset --help` tells more"),
        ("serve --listen", "option '--listen' requires an argument; `penstock --help` tells more"),
    ],
)
def test_what_cannot_be_understood(typed: str, told: str) -> None:
    """It is said in one line, in the words of all other refusals, with the place of the help."""
    done = run(*typed.split())

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"penstock: {told}")
    assert done.stderr.count("\n") == 1


class TestHelp:
    def test_overview(self) -> None:
        """--help names every command with a whole sentence, and what exit codes mean."""
        shown = run("--help").stdout

        assert not [line for line in shown.splitlines()[1:] if line.endswith("...")]
        for word in ("serve", "config", "version", "--version", "Exit codes"):
            assert word in shown

    def test_serve(self) -> None:
        """`serve --help` has every flag with its form."""
        shown = run("serve", "--help").stdout

        for flag in (
            "--config FILE",
            "--listen HOST:PORT[=ADVERTISED_HOST[:PORT]]",
            "--http HOST:PORT|off",
            "--data-dir DIR",
            "--ready-file FILE",
            "--set KEY=VALUE",
        ):
            assert flag in shown

    @pytest.mark.parametrize("arguments", [("version",), ("--version",)])
    def test_version(self, arguments: tuple[str, ...]) -> None:
        """The version is printed in one line."""
        assert run(*arguments).stdout == f"penstock {__version__}\n"


class TestConfig:
    def test_json(self, tmp_path: Path) -> None:
        """`config --json` is for programs: every key, with the source of its value."""
        file = tmp_path / "p.toml"
        file.write_text("num.partitions = 3\n")
        shown = run(
            *("config", "--json", "--config", str(file), "--set", "node.id=9"),
            environ={"PENSTOCK_LOGGING_LEVEL": "debug"},
        )
        rows = {row["key"]: row for row in json.loads(shown.stdout)}

        assert rows["num.partitions"]["source"] == f"file {file}"
        assert rows["logging.level"]["source"] == "environment PENSTOCK_LOGGING_LEVEL"
        assert rows["node.id"]["source"] == "--set"
        assert rows["max.connections"]["source"] == "default"

    def test_for_people(self) -> None:
        """`config` shows key, value, source and meaning."""
        shown = run("config").stdout

        assert "num.partitions = 16  (default)" in shown
        assert "Partitions of a new topic" in shown

    def test_shown_values_can_be_given_back(self, tmp_path: Path) -> None:
        """The output of `config --json` is a configuration."""
        rows = json.loads(run("config", "--json").stdout)
        file = tmp_path / "p.toml"
        file.write_text(
            "".join(f"{row['key']} = {json.dumps(row['value'])}\n" for row in rows if row["value"] is not None)
        )
        again = json.loads(run("config", "--json", "--config", str(file)).stdout)

        assert [row["value"] for row in again] == [row["value"] for row in rows]


def last_word(said: str) -> str:
    """The end of what a refused command says, which has no traceback; without the command's name."""
    assert "Traceback" not in said
    line = said.splitlines()[-1]
    assert line.startswith("penstock: "), said
    return line.removeprefix("penstock: ")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--set", "num.partition=3"), "nearest known key: num.partitions"),
            (("--set", "log.sync.mode=never"), "allowed: group, interval"),
            (("--listen", "0.0.0.0:9092"), "(--listen)"),
            (("--listen", "nowhere"), "is not HOST:PORT"),
            (("--http", "nowhere"), "http.listen = 'nowhere' (--http)"),
            (("--config", "/nowhere.toml"), "cannot be read"),
            (("--ready-file", "/nowhere/ready.json"), "its directory is not there"),
            (("--ready-file", "/"), "it is a directory"),
            (("--frobnicate",), "--frobnicate"),
        ],
    )
    def test_configuration(self, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
        """A mistake in the configuration ends with 2, names the mistake, and leaves no data behind."""
        data = tmp_path / "data"
        ended = run("serve", "--data-dir", str(data), *arguments)

        assert ended.returncode == 2
        assert said in last_word(ended.stderr)
        assert not data.exists()

    def test_environment(self) -> None:
        """The environment is judged as strictly."""
        ended = run("serve", environ={"PENSTOCK_NUM_PARTITION": "3"})

        assert ended.returncode == 2
        assert "environment PENSTOCK_NUM_PARTITION" in last_word(ended.stderr)

    def test_port_taken(self, tmp_path: Path) -> None:
        """A port that somebody else has ends with 3 and names the address."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with serving(tmp_path, "--listen", address) as gateway:
                assert gateway.end() == 3
                assert last_word(gateway.err.read_text()).startswith(f"cannot listen on {address}: ")

    def test_http_port_taken(self, tmp_path: Path) -> None:
        """The HTTP port is as much needed as the others."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with serving(tmp_path, "--http", address) as gateway:
                assert gateway.end() == 3
                assert last_word(gateway.err.read_text()).startswith(f"cannot listen on {address}: ")

    def test_directory_taken(self, tmp_path: Path) -> None:
        """A second process ends with 3 and names the first one."""
        with serving(tmp_path) as first:
            pid = first.ready()["pid"]
            second = run(*("serve", "--listen", "127.0.0.1:0", "--http", "off", "--data-dir", f"{tmp_path}/data"))

            assert second.returncode == 3
            assert f"in use by process {pid}" in last_word(second.stderr)
            assert first.process.poll() is None

    def test_newer_data(self, tmp_path: Path) -> None:
        """Data of a later release ends with 2 and names the release that reads it."""
        (tmp_path / "data").mkdir()
        identity = {"cluster_id": "A" * 22, "format": 1_000, "needs_release": "42.0.0"}
        (tmp_path / "data" / "penstock.json").write_text(json.dumps(identity))
        with serving(tmp_path) as gateway:
            assert gateway.end() == 2
            assert "use Penstock 42.0.0 or later" in last_word(gateway.err.read_text())

    def test_damaged_identity(self, tmp_path: Path) -> None:
        """A penstock.json that cannot be read ends with 4: bytes are damaged, not the configuration."""
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "penstock.json").write_text("{")
        with serving(tmp_path, "--set", "logging.format=json") as gateway:
            assert gateway.end() == 4
            told = json.loads(gateway.err.read_text().splitlines()[-1])
            assert told["message"].startswith(f"{tmp_path / 'data' / 'penstock.json'}: is not JSON")

    def test_several_workers(self, tmp_path: Path) -> None:
        """What each worker refuses is said once, with its exit code; what is for all is refused before they start."""
        nowhere = str(tmp_path / "nowhere.pem")
        listener = ("--listen", "SSL://127.0.0.1:0", "--set", f"ssl.keystore.location={nowhere}")
        http = ("--http", "127.0.0.1:0", "--set", f"http.tls.keystore.location={nowhere}")
        for name, flags in (("SSL", listener), ("http", http)):
            with serving(tmp_path / name, "--workers", "2", *flags) as gateway:
                assert gateway.end() == 2
                said = gateway.err.read_text()
            assert last_word(said) == f"listener {name}: {nowhere}: cannot be read: No such file or directory"
            assert said.count(nowhere) == 1

    def test_a_worker_by_hand(self) -> None:
        """Workers are started by their supervisor, and by nobody else."""
        ended = run("worker")

        assert ended.returncode == 2
        assert last_word(ended.stderr) == "workers are started by `penstock serve --workers N`, not by hand"


class TestServing:
    def test_ready_file(self, tmp_path: Path) -> None:
        """A serving gateway prints who serves what, from where, and which address a client has to call."""
        with serving(tmp_path, "--http", "127.0.0.1:0") as gateway:
            ready = gateway.ready()
            identity = json.loads((tmp_path / "data" / "penstock.json").read_text())

            assert ready == {
                "pid": gateway.process.pid,
                "kafka": ready["kafka"],
                "http": ready["http"],
                "data_dir": str(tmp_path / "data"),
                "cluster_id": identity["cluster_id"],
                "replayed_bytes": 0,
            }
            for address in (*ready["kafka"], ready["http"]):
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=5).close()

    def test_what_it_prints(self, tmp_path: Path) -> None:
        """A starting gateway prints where it listens, where data lies, and a line to try it, which works."""
        with serving(tmp_path) as gateway:
            address = gateway.ready()["kafka"][0]
            printed = gateway.out.read_text()
            line = next(line for line in printed.splitlines() if "Try it" in line).partition("Try it")[2]
            environ = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
            tried = subprocess.run(
                ["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False, env=environ
            )

        assert f"Kafka clients  {address}\n" in printed
        assert f"Data           {tmp_path / 'data'}\n" in printed
        assert f"Long term      {tmp_path / 'data' / 'tier2'}\n" in printed
        assert (tried.returncode, tried.stdout) == (0, "hello\n"), tried.stderr

    def test_several_listeners(self, tmp_path: Path) -> None:
        """A client gets the address that belongs to the listener it used."""
        two = ("--listen", "127.0.0.1:0", "--listen", "localhost:0=broker.test:7777")
        with serving(tmp_path, *two) as gateway:
            first, second = gateway.ready()["kafka"]

            assert told_by(first) == first
            assert told_by(second) == "broker.test:7777"

    def test_open_listener_warns(self, tmp_path: Path) -> None:
        """A listener that is open to others gives a warning that nothing guards it."""
        with serving(tmp_path, "--listen", "0.0.0.0:0=127.0.0.1") as gateway:
            gateway.ready()

            assert "it asks nobody who they are" in gateway.err.read_text()

    def test_open_http_warns(self, tmp_path: Path) -> None:
        """An HTTP port that is open to others gives a warning of its own."""
        with serving(tmp_path, "--http", "0.0.0.0:0") as gateway:
            gateway.ready()

            said = gateway.err.read_text()
            assert ("changes need http.token" in said, "it asks nobody who they are" in said) == (True, False)

    def test_loopback_does_not_warn(self, tmp_path: Path) -> None:
        """The default listener, which only this machine reaches, gives no warning."""
        with serving(tmp_path, "--listen", "localhost:0") as gateway:
            gateway.ready()

            assert "WARNING" not in gateway.err.read_text()

    def test_file_limit(self, tmp_path: Path) -> None:
        """A start takes all descriptors that it may have, and warns if connections could use them up."""
        with serving(tmp_path, "--set", "max.connections=2000000000") as gateway:
            gateway.ready()
            soft, hard = psutil.Process(gateway.process.pid).rlimit(psutil.RLIMIT_NOFILE)

            assert soft == hard
            assert "max.connections is more than this process may open" in gateway.err.read_text()

    def test_json_logs(self, tmp_path: Path) -> None:
        """With logging.format=json every line on stderr is an object."""
        with serving(tmp_path, "--set", "logging.format=json") as gateway:
            gateway.ready()
            gateway.terminate()
            lines = [json.loads(line) for line in gateway.err.read_text().splitlines()]

            assert {"starting", "serving", "stopping", "stopped"} <= {line["message"] for line in lines}


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_cleanly(self, tmp_path: Path, number: signal.Signals) -> None:
        """A first signal stops with 0, and the next start has everything and replays nothing."""
        with serving(tmp_path) as gateway:
            produce(gateway.ready()["kafka"][0], "a", "b", "c")
            gateway.process.send_signal(number)

            assert gateway.end() == 0
        with serving(tmp_path) as gateway:
            ready = gateway.ready()

            assert ready["replayed_bytes"] == 0
            assert consume(ready["kafka"][0], 3) == ["a", "b", "c"]

    def test_second_signal(self, tmp_path: Path) -> None:
        """While a clean stop waits for a request under way, a second signal ends it at once."""
        with serving(tmp_path) as gateway:
            address = gateway.ready()["kafka"][0]
            produce(address, "a")
            with Connection(address) as consumer:
                consumer.send_fetch({"t": {0: 1}}, max_wait_ms=60_000, max_bytes=1_000)
                gateway.process.terminate()
                gateway.await_line("gateway.process.serving stopping")
                again_s = time.monotonic()
                while gateway.process.poll() is None:
                    gateway.process.terminate()
                    assert time.monotonic() < again_s + STOP_GRACE_S

                assert gateway.end() == -signal.SIGTERM

    def test_one_signal_that_arrives_twice(self, tmp_path: Path) -> None:
        """A process group's SIGTERM comes from the sender and again from `make`: still a clean stop."""
        with serving(tmp_path) as gateway:
            produce(gateway.ready()["kafka"][0], "a")
            gateway.process.terminate()
            gateway.process.terminate()

            assert gateway.end() == 0

    def test_after_a_kill(self, tmp_path: Path) -> None:
        """Acknowledged records are there after a kill, and the start reports the replayed bytes."""
        with serving(tmp_path) as gateway:
            cluster_id = gateway.ready()["cluster_id"]
            produce(gateway.ready()["kafka"][0], "a", "b")
            gateway.process.kill()
            gateway.end()
        with serving(tmp_path) as gateway:
            ready = gateway.ready()

            assert ready["replayed_bytes"] > 0
            assert ready["cluster_id"] == cluster_id
            assert consume(ready["kafka"][0], 2) == ["a", "b"]


def test_the_lock_names_its_owner(tmp_path: Path) -> None:
    """An operator who finds a locked directory can read whose it is."""
    with serving(tmp_path) as gateway:
        gateway.ready()

        assert (tmp_path / "data" / "penstock.lock").read_text() == f"{gateway.process.pid}\n"


def test_pyproject_and_code_agree_on_the_version() -> None:
    """There is one place that says the version."""
    project = tomllib.loads(Path("pyproject.toml").read_text())

    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "gateway.__version__"}
