"""Errors of kafka-python as refusals.

Keeps: whatever kafka-python raises becomes `Refused`, with Kafka's name of the error and the broker's words.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from kafka.errors import KafkaError, for_code

from gateway.cli.refused import Refused

P = ParamSpec("P")
T = TypeVar("T")


def refusing(method: Callable[P, T]) -> Callable[P, T]:
    """A method whose errors of kafka-python are refusals."""

    @functools.wraps(method)
    def telling(*args: P.args, **kwargs: P.kwargs) -> T:
        with refusals():
            return method(*args, **kwargs)

    return telling


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Raises Refused for what kafka-python raises in the block."""
    try:
        yield
    except KafkaError as error:
        raise Refused(words_of(error)) from error
    except (OSError, ValueError, TypeError, AttributeError) as error:  # it says so of what it cannot encode or send
        raise Refused(f"the request could not be made: {str(error)[:500]}") from error


def words_of(error: BaseException | type[BaseException], said: str | None = None) -> str:
    """Kafka's name of an error, and the broker's words."""
    kind = error if isinstance(error, type) else type(error)
    name = str(getattr(kind, "message", kind.__name__))
    text = said
    if text is None and not isinstance(error, type):
        text = " ".join(str(part) for part in error.args if part)
    text = (text or getattr(kind, "description", "") or "").removeprefix(f"[Error {getattr(kind, 'errno', '')}] ")
    return f"{name}: {text[:500]}" if text and text != name else name


def check(code: int, message: str | None, what: str) -> None:
    """Raises Refused if the code is one of an error. `what` was asked for."""
    if code:
        raise Refused(f"{what}: {words_of(for_code(code), message)}")
