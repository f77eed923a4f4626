from collections.abc import Callable
from ssl import SSLObject
from typing import final

from typing_extensions import Buffer

@final
class Unsealer:
    def unseal(self, room: Buffer, wire: Buffer, at: int, /) -> tuple[int, int, bool, bool]: ...

def wrap(make: Callable[[], SSLObject], /) -> tuple[SSLObject, Unsealer | None]: ...
