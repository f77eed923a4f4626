"""The bytes of log objects: a golden file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.log.objects.format import (
    HEADER_SIZE,
    BadLogObject,
    check_data,
    decode_header,
    encode_fence,
    encode_group,
    log_key,
)
from core.log.objects.protocol import Fence, Group, Place

GOLDEN = Path(__file__).parent / "golden" / "log-objects-1.hex"
TOKEN = "00112233445566778899aabbccddeeff"
PLACE = Place(3, 17)
GROUP = Group(PLACE, 19, TOKEN)
FENCE = Fence(PLACE, 5, TOKEN)
GROUP_BYTES = encode_group(7, GROUP, file_lsn=11, file_id=99, position=4096, parts=(b"some ", b"frames"))
FENCE_BYTES = encode_fence(7, FENCE)


def test_bytes_stay_as_they_are() -> None:
    """Objects of this version can be read for ever: these bytes were written once."""
    assert [GROUP_BYTES.hex(), FENCE_BYTES.hex()] == GOLDEN.read_text().split()


def test_objects_are_read_back() -> None:
    group, stretch = decode_header(7, PLACE, GROUP_BYTES)
    assert group == GROUP
    assert stretch is not None
    assert (stretch.file_lsn, stretch.file_id, stretch.position, stretch.size) == (11, 99, 4096, 11)
    check_data(stretch, GROUP_BYTES[HEADER_SIZE:])
    assert decode_header(7, PLACE, FENCE_BYTES) == (FENCE, None)
    assert len(FENCE_BYTES) == HEADER_SIZE


def test_names_sort_as_the_log_does() -> None:
    places = [Place(1, 9), Place(1, 10), Place(2, 10), Place(10, 3)]
    assert sorted(log_key(7, place) for place in reversed(places)) == [log_key(7, place) for place in places]


@pytest.mark.parametrize("at", range(0, 92, 3))
def test_a_changed_header_is_refused(at: int) -> None:
    changed = bytearray(GROUP_BYTES)
    changed[at] ^= 1
    with pytest.raises(BadLogObject):
        decode_header(7, PLACE, changed)


def test_an_object_under_another_name_is_refused() -> None:
    for container, place in ((8, PLACE), (7, Place(4, 17)), (7, Place(3, 18))):
        with pytest.raises(BadLogObject, match="it says that it is LSN 17 of epoch 3 of container 7"):
            decode_header(container, place, GROUP_BYTES)


def test_changed_and_missing_bytes_are_refused() -> None:
    _, stretch = decode_header(7, PLACE, GROUP_BYTES)
    assert stretch is not None
    with pytest.raises(BadLogObject, match="fail their CRC"):
        check_data(stretch, b"some framez")
    with pytest.raises(BadLogObject, match="10 bytes"):
        check_data(stretch, b"some frame")
    with pytest.raises(BadLogObject, match="cut off"):
        decode_header(7, PLACE, GROUP_BYTES[:50])
