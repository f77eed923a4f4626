"""Every administrative API has an answer for what nobody expected, in each of its versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.apis import discover
from gateway.dispatch.registry import Api
from gateway.wire.codec import request_codec, response_codec
from gateway.wire.message import Message
from gateway.wire.schema import StructSpec

UNKNOWN_SERVER_ERROR = -1
ADMINISTRATIVE = [
    api for api in discover() if api.handle is not None and api.handle.__module__.startswith("gateway.apis")
]


def one_of_each(struct: StructSpec) -> dict[str, Any]:
    """A request whose arrays all have one element."""
    request: dict[str, Any] = {}
    for field in struct.fields:
        if field.is_array:
            plain = "x" if field.kind == "string" else 1
            request[field.name] = [plain if field.struct is None else one_of_each(field.struct)]
    return request


def codes(answer: Message) -> Iterator[int]:
    for name in answer.schema_fields:
        value = getattr(answer, name)
        if name.endswith("error_code"):
            yield value
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, Message):
                    yield from codes(item)


@pytest.mark.parametrize("api", [api for api in ADMINISTRATIVE if api.error_response], ids=lambda api: api.name)
def test_answered(api: Api) -> None:
    """The answer says that there was an error, wherever the version has a place for it."""
    assert api.error_response is not None
    for version in api.versions:
        asked = request_codec(api.key, version)
        request = asked.decode(asked.encode(one_of_each(asked.struct)))
        codec = response_codec(api.key, version)
        answer = codec.decode(codec.encode(api.error_response(request, version, UNKNOWN_SERVER_ERROR)))

        found = list(codes(answer))
        assert found.count(UNKNOWN_SERVER_ERROR) >= 1, f"{api.name} v{version}: {answer}"
