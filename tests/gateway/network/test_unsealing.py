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

from gateway.network import unsealing
from gateway.network.tls_records import RECORD_BYTES
from gateway.records.walking import PYTHON_VARIABLE
from tests.gateway.network.unsealed import Contexts, Pair, agree, contexts, outlives, read_through
from tests.gateway.security.certificates import Files, make

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
    if unsealing.native_wrap is None:
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


def forever(size: int) -> Iterator[int]:
    while True:
        yield size


def test_records_that_are_cut_at_any_byte(shaken: Pair) -> None:
    """Two small records, as librdkafka makes them, that come in two parts: wherever they are cut, nothing is lost."""
    contents = b"0123456789", bytes(range(200))
    size = len(b"".join(contents))
    for at in range(size + 100):
        wire = b"".join(map(shaken.record, contents))
        content, end = read_through(shaken.unsealer, (wire[:at], wire[at:]), forever(300))
        assert (content, end) == (b"".join(contents), "open")
    assert at > len(wire)


def test_a_room_that_ends_within_a_record(shaken: Pair) -> None:
    """What has no room comes next, and the caller is told that there is more."""
    wire = memoryview(shaken.record(b"a" * 100) + shaken.record(b"b" * 100))
    size, at, more = shaken.unsealer.unseal(small := room(150), wire, 0)
    assert (size, more, bytes(small)) == (150, True, b"a" * 100 + b"b" * 50)
    assert shaken.unsealer.has_input() or at < len(wire)
    size, at, more = shaken.unsealer.unseal(small, wire, at)
    assert (size, at, more, bytes(small[:50])) == (50, len(wire), False, b"b" * 50)
    assert not shaken.unsealer.has_input()


def test_what_comes_behind_a_goodbye_counts_for_nothing(shaken: Pair) -> None:
    """All that came before is read, and the rest of the wire is taken, whatever it is."""
    wire = memoryview(shaken.record(b"last") + shaken.goodbye() + b"no TLS")
    into = room()
    assert shaken.unsealer.unseal(into, wire, 0) == (4, len(wire), False)
    assert bytes(into[:4]) == b"last"
    assert shaken.unsealer.said_goodbye


def test_plaintext_is_refused_at_its_first_bytes(shaken: Pair) -> None:
    """Five bytes that cannot be the head of a record are enough: nobody waits for what they would announce."""
    with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number"):
        shaken.unsealer.unseal(room(), memoryview(b"GET /"), 0)


@pytest.mark.parametrize("come", [1, 4, 5, 6, 500])
def test_the_beginning_of_a_record_is_counted(shaken: Pair, come: int) -> None:
    """What was taken from the wire is held, and what was not lies there still: together no less than came."""
    wire = shaken.record(bytes(1_000))
    size, at, more = shaken.unsealer.unseal(room(), memoryview(wire[:come]), 0)
    assert (size, more) == (0, False)
    assert shaken.unsealer.holds_bytes + come - at >= come
    assert shaken.unsealer.unseal(room(), memoryview(wire), at)[0] == 1_000
    assert shaken.unsealer.holds_bytes == 0


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
        _, at, _ = pair.unsealer.unseal(room(1), wire, 0)
        rests.append(wire[at:])
    into = room()
    before = libc.mallinfo2().used
    for pair, rest in zip(pairs, rests, strict=True):
        assert pair.unsealer.unseal(into, rest, 0)[0] == 19_999
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
                pair.unsealer.unseal(memoryview(bytearray()), memoryview(b""), 0)
            except RuntimeError as error:
                refused.append(error)

    other = threading.Thread(target=interfere)
    other.start()
    try:
        for _ in range(100):
            wire = memoryview(b"".join(pair.record(bytes(RECORD_BYTES)) for _ in range(200)))
            assert pair.unsealer.unseal(into, wire, 0)[:2] == (len(into), len(wire))
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
    native: Any = pair.unsealer
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
    code = "from gateway.network.unsealing import native_wrap; print(native_wrap is None)"
    environment = {**os.environ, PYTHON_VARIABLE: "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"


@pytest.mark.usefixtures("native")
def test_a_session_that_is_not_seen_is_read_by_python(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenSSL tells of no session, or of more than one, the other way is taken."""
    wrap = unsealing.native_wrap
    assert wrap is not None
    context = contexts(files)[0]
    buffers = ssl.MemoryBIO(), ssl.MemoryBIO()

    def make_two() -> ssl.SSLObject:
        context.wrap_bio(*buffers, server_side=True)
        return context.wrap_bio(*buffers, server_side=True)

    session, of_two = wrap(make_two)
    _, of_none = wrap(lambda: session)
    assert (of_two, of_none) == (None, None)
    monkeypatch.setattr(unsealing, "native_wrap", lambda make: (make(), None))
    assert isinstance(unsealing.wrapped(context, *buffers)[1], unsealing.PythonUnsealer)


@pytest.mark.usefixtures("native")
def test_a_session_that_cannot_be_made() -> None:
    """What making it raises comes out."""
    anything: Any = unsealing.native_wrap
    with pytest.raises(ZeroDivisionError):
        anything(lambda: 1 / 0)


def test_where_openssl_is_not_found(tmp_path: Path) -> None:
    """Without its functions beside Python's ssl the import fails, and nothing else."""
    code = (
        "import sys, types, ssl, _ssl\n"
        "fake = types.ModuleType('_ssl'); fake.SSLError = ssl.SSLError; fake.__file__ = sys.argv[1]\n"
        "sys.modules['_ssl'] = fake\n"
        "from gateway.network.unsealing import native_wrap; print(native_wrap is None)"
    )
    environment = {key: value for key, value in os.environ.items() if key != PYTHON_VARIABLE}
    command = [sys.executable, "-c", code, str(tmp_path / "none.so")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"
