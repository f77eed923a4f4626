"""Reading a TLS session: the same bytes and the same end in each way, and no memory kept between two reads."""

from __future__ import annotations

import ctypes
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.network import sessions
from gateway.network.idle_records import IDLE_RECORDS_MAX
from gateway.network.sessions import FEED_BYTES
from gateway.network.tls_records import RECORD_BYTES
from gateway.records.walking import PYTHON_VARIABLE
from tests.gateway.network.own_records import DATA, Sealing13
from tests.gateway.network.sessions_agree import (
    Contexts,
    Pair,
    agree,
    answers,
    contexts,
    outlives,
    read_through,
    small_answers,
)
from tests.gateway.security.certificates import Files, make

pytestmark = pytest.mark.slow

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def both(files: Files, request: pytest.FixtureRequest) -> Contexts:
    return contexts(files, request.param)


@pytest.fixture
def native() -> None:
    if os.environ.get(PYTHON_VARIABLE):
        pytest.skip(f"{PYTHON_VARIABLE} asks for Python")
    if sessions.native_wrap is None:
        pytest.skip("there is no compiler here, or OpenSSL is a part of the interpreter")


@pytest.fixture(params=[True, False], ids=["natively", "by Python"])
def shaken(both: Contexts, request: pytest.FixtureRequest) -> Pair:
    if request.param:
        request.getfixturevalue("native")
    pair = Pair(both, natively=request.param)
    pair.shake()
    return pair


def room(size: int = 4 * RECORD_BYTES) -> memoryview:
    return memoryview(bytearray(size))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("seed", range(60))
def test_agreement(both: Contexts, seed: int) -> None:
    """Wires that are whole, cut, damaged, or end with a goodbye: both ways give the same bytes and the same end."""
    agree(both, seed)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("seed", range(10))
def test_what_is_sealed(both: Contexts, seed: int) -> None:
    answers(both, seed)


@pytest.mark.parametrize("natively", [True, False])
def test_an_answer_behind_a_change_of_keys(
    files: Files, tmp_path: Path, request: pytest.FixtureRequest, natively: bool
) -> None:
    """A client asks for a change of keys right before a request: the server's own change leaves before the answer that
    it seals with the new ones."""
    if natively:
        request.getfixturevalue("native")
    server, client = contexts(files)
    client.keylog_filename = str(tmp_path / "keys")
    pair = Pair((server, client), natively=natively)
    pair.shake()
    sealing = Sealing13.behind(tmp_path / "keys")
    for number in range(3):
        wire = sealing.key_update(asks=True) + sealing.record(DATA, b"request")
        assert pair.records.unseal(room(), memoryview(wire), 0)[0] == 7
        parts = [b"answer", bytes([number]) * 40_000]
        assert pair.answer(parts)[0] == b"".join(parts)


@pytest.mark.usefixtures("native")
def test_what_is_sealed_is_let_go(both: Contexts) -> None:
    """Nobody holds a part, or OpenSSL's buffer, after it is sealed; what is no buffer is refused, and the session goes
    on."""
    pair = Pair(both, natively=True)
    pair.shake()
    part = bytearray(b"x" * 20_000)
    assert pair.answer([part, b"y"])[0] == b"x" * 20_000 + b"y"  # type: ignore[list-item]
    part += b"it can grow"
    anything: Any = pair.records
    for wrong in (["text"], [part, 1], 7):
        with pytest.raises(TypeError):
            anything.seal(wrong)
    part += b"still"
    assert pair.answer([])[0] == b""
    assert pair.answer([b"z"])[0] == b"z"


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("size", [100, 16_384, 65_536, 300_000])
def test_a_client_that_asks_for_small_records(files: Files, both: Contexts, size: int) -> None:
    small_answers(files, both[0].maximum_version, size)


def forever(size: int) -> Iterator[int]:
    while True:
        yield size


def test_records_that_are_cut_at_any_byte(shaken: Pair) -> None:
    """Two small records, as librdkafka makes them, that come in two parts: wherever they are cut, nothing is lost."""
    contents = b"0123456789", bytes(range(200))
    size = len(b"".join(contents))
    for at in range(size + 100):
        wire = b"".join(map(shaken.record, contents))
        content, end = read_through(shaken.records, (wire[:at], wire[at:]), forever(300))
        assert (content, end) == (b"".join(contents), "open")
    assert at > len(wire)


def test_a_room_that_ends_within_a_record(shaken: Pair) -> None:
    """What has no room comes next, and the caller is told that there is more."""
    wire = memoryview(shaken.record(b"a" * 100) + shaken.record(b"b" * 100))
    size, at, more = shaken.records.unseal(small := room(150), wire, 0)
    assert (size, more, bytes(small)) == (150, True, b"a" * 100 + b"b" * 50)
    assert shaken.records.has_input() or at < len(wire)
    size, at, more = shaken.records.unseal(small, wire, at)
    assert (size, at, more, bytes(small[:50])) == (50, len(wire), False, b"b" * 50)
    assert not shaken.records.has_input()


def test_what_comes_behind_a_goodbye_counts_for_nothing(shaken: Pair) -> None:
    """All that came before is read, and the rest of the wire is taken, whatever it is."""
    wire = memoryview(shaken.record(b"last") + shaken.goodbye() + b"no TLS")
    into = room()
    assert shaken.records.unseal(into, wire, 0) == (4, len(wire), False)
    assert bytes(into[:4]) == b"last"
    assert shaken.records.said_goodbye


def test_plaintext_is_refused_at_its_first_bytes(shaken: Pair) -> None:
    """Five bytes that cannot be the head of a record are enough: nobody waits for what they would announce."""
    with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number"):
        shaken.records.unseal(room(), memoryview(b"GET /"), 0)


@pytest.mark.parametrize("come", [1, 4, 5, 6, 500])
def test_the_beginning_of_a_record_is_counted(shaken: Pair, come: int) -> None:
    """What was taken from the wire is held, and what was not lies there still: together no less than came."""
    wire = shaken.record(bytes(1_000))
    size, at, more = shaken.records.unseal(room(), memoryview(wire[:come]), 0)
    assert (size, more) == (0, False)
    assert shaken.records.holds_bytes + come - at >= come
    assert shaken.records.unseal(room(), memoryview(wire), at)[0] == 1_000
    assert shaken.records.holds_bytes == 0


@pytest.mark.parametrize("natively", [True, False])
def test_records_without_data_are_looked_at_in_parts(
    files: Files, tmp_path: Path, request: pytest.FixtureRequest, natively: bool
) -> None:
    """A call looks at some changes of keys and tells how many: natively at few, in Python at as many as are given to
    OpenSSL at once. What comes behind them is read in the end."""
    if natively:
        request.getfixturevalue("native")
    server, client = contexts(files)
    client.keylog_filename = str(tmp_path / "keys")
    pair = Pair((server, client), natively=natively)
    pair.shake()
    sealing = Sealing13.behind(tmp_path / "keys")
    changes = [sealing.key_update() for _ in range(2_000)]
    wire = memoryview(b"".join(changes) + sealing.record(DATA, b"data"))
    into, at, size, more = room(), 0, 0, True
    met = []
    while more and at < len(wire):
        before = at
        size, at, more = pair.records.unseal(into, wire, at)
        assert at - before <= (IDLE_RECORDS_MAX * len(changes[0]) if natively else 2 * FEED_BYTES)
        met.append(pair.records.idle_records)
    assert (size, bytes(into[:4])) == (4, b"data")
    if natively:
        assert (max(met), sum(met)) == (IDLE_RECORDS_MAX, len(changes))
    else:
        assert IDLE_RECORDS_MAX < max(met) <= sum(met) <= len(changes)


@pytest.mark.usefixtures("native")
def test_a_session_outlives_who_reads_from_it(both: Contexts) -> None:
    outlives(both)


@pytest.mark.usefixtures("native")
def test_no_buffer_is_kept(both: Contexts) -> None:
    """OpenSSL has a buffer of 16 KiB as long as the room ends within a record, and none when all records were read."""
    if not hasattr(libc := ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("the C library does not say how much memory is in use")

    class Figures(ctypes.Structure):
        _fields_ = (("others", ctypes.c_size_t * 7), ("used", ctypes.c_size_t), ("free", ctypes.c_size_t * 2))

    libc.mallinfo2.restype = Figures
    pairs, rests = [Pair(both, natively=True) for _ in range(50)], []
    for pair in pairs:
        pair.shake()
        wire = memoryview(b"".join(pair.record(bytes(1_000)) for _ in range(20)))
        _, at, _ = pair.records.unseal(room(1), wire, 0)
        rests.append(wire[at:])
    into = room()
    before = libc.mallinfo2().used
    for pair, rest in zip(pairs, rests, strict=True):
        assert pair.records.unseal(into, rest, 0)[0] == 19_999
    assert before - libc.mallinfo2().used > 0.9 * len(pairs) * RECORD_BYTES


@pytest.mark.usefixtures("native")
def test_one_at_a_time(both: Contexts) -> None:
    """A second thread in a session gets an exception, and the first one its bytes."""
    pair = Pair(both, natively=True)
    pair.shake()
    into, done = memoryview(bytearray(200 * RECORD_BYTES)), threading.Event()
    refused: list[RuntimeError] = []

    def interfere() -> None:
        while not done.is_set():
            try:
                pair.records.unseal(memoryview(bytearray()), memoryview(b""), 0)
            except RuntimeError as error:
                refused.append(error)

    other = threading.Thread(target=interfere)
    other.start()
    try:
        for _ in range(100):
            wire = memoryview(b"".join(pair.record(bytes(RECORD_BYTES)) for _ in range(200)))
            assert pair.records.unseal(into, wire, 0)[:2] == (len(into), len(wire))
            if refused:
                break
    finally:
        done.set()
        other.join(10)
    assert "another thread" in str(refused[0])


@pytest.mark.usefixtures("native")
def test_arguments_that_are_none(both: Contexts) -> None:
    pair = Pair(both, natively=True)
    pair.shake()
    native: Any = pair.records
    for arguments in (
        (room(), b"abc", -1),
        (room(), b"abc", 4),
        (room(), b"abc", "0"),
        (b"not to be written", b"", 0),
        (room(), "text", 0),
    ):
        with pytest.raises((TypeError, BufferError, ValueError)):
            native._native.unseal(*arguments)
    with pytest.raises(TypeError):
        native._native.unseal(room())


def test_who_reads() -> None:
    """The environment asks for Python."""
    code = "from gateway.network.sessions import native_wrap; print(native_wrap is None)"
    environment = {**os.environ, PYTHON_VARIABLE: "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"


@pytest.mark.usefixtures("native")
def test_a_session_that_is_not_seen_is_read_by_python(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenSSL tells of no session, or of more than one, the other way is taken."""
    wrap = sessions.native_wrap
    assert wrap is not None
    context = contexts(files)[0]
    buffers = ssl.MemoryBIO(), ssl.MemoryBIO()

    def make_two() -> ssl.SSLObject:
        context.wrap_bio(*buffers, server_side=True)
        return context.wrap_bio(*buffers, server_side=True)

    session, of_two = wrap(make_two)
    _, of_none = wrap(lambda: session)
    assert (of_two, of_none) == (None, None)
    monkeypatch.setattr(sessions, "native_wrap", lambda make: (make(), None))
    assert isinstance(sessions.wrapped(context, *buffers)[1], sessions.PythonSession)


@pytest.mark.usefixtures("native")
def test_a_session_that_cannot_be_made() -> None:
    """What making it raises comes out."""
    anything: Any = sessions.native_wrap
    with pytest.raises(ZeroDivisionError):
        anything(lambda: 1 / 0)


def test_where_openssl_is_not_found(tmp_path: Path) -> None:
    """Without its functions beside Python's ssl the import fails, and nothing else."""
    code = (
        "import sys, types, ssl, _ssl\n"
        "fake = types.ModuleType('_ssl'); fake.SSLError = ssl.SSLError; fake.__file__ = sys.argv[1]\n"
        "sys.modules['_ssl'] = fake\n"
        "from gateway.network.sessions import native_wrap; print(native_wrap is None)"
    )
    environment = {key: value for key, value in os.environ.items() if key != PYTHON_VARIABLE}
    command = [sys.executable, "-c", code, str(tmp_path / "none.so")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"
