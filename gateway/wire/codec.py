"""Kafka's messages to and from bytes, with decoders that no peer can make allocate or run away.

For each message of each (API, version) two functions are generated from the schema at first use:
`decode` (bytes to Message) and `encode` (mapping to bytes). kio describes the messages but never
touches bytes here, because its reader reserves memory for whatever count a peer declares.

Invariants of every decoder, whatever the bytes are:
- A count is accepted only if the bytes left have room for that many elements of the smallest size.
- No more than ELEMENTS_MAX elements (array items and tagged fields) are decoded per message.
- A length is accepted only if the bytes are there; varints have at most 5 bytes.
- Null is accepted only where the schema says so.
- Bytes behind the message are ignored, as in Kafka: librdkafka 2.16 sends Metadata v13 with three bytes
  too many.
- A violation raises MalformedRequest with the field's path and position, nothing else.
"""

import linecache
from collections.abc import Callable, Mapping
from functools import cache, cached_property
from typing import Any, Final

from gateway.wire import primitives
from gateway.wire.message import Message, message_class
from gateway.wire.schema import STRUCT_FORMATS, FieldSpec, StructSpec, load

ELEMENTS_MAX: Final = 200_000
"""Decoded elements per message. A Message takes up to 300 bytes, so one request becomes at most 60 MB
of objects; the largest honest requests (10,000 partitions in one Fetch) have a twentieth of that."""

Buffer = bytes | bytearray | memoryview
Decoder = Callable[[memoryview, int, int, list[int]], tuple[Message, int]]
Encoder = Callable[[bytearray, Mapping[str, Any]], None]


class Codec:
    """Reads and writes one message of one (API, version)."""

    def __init__(self, key: int, version: int, is_request: bool) -> None:
        self.key = key
        self.version = version
        self.is_request = is_request
        self.struct = load(key, version, is_request)
        self.flexible = self.struct.flexible

    def __repr__(self) -> str:
        return f"<Codec {self.struct.name} key={self.key} v{self.version}>"

    def decode(self, body: Buffer, position: int = 0) -> Message:
        """The message that begins body[position:]. Raises MalformedRequest."""
        return self.decode_counted(body, position)[0]

    def decode_counted(self, body: Buffer, position: int = 0) -> tuple[Message, int]:
        """The message, and its number of elements (for memory accounting)."""
        view = memoryview(body)
        end = len(view)
        budget = [ELEMENTS_MAX]
        message, _ = self._decoder(view, position, end, budget)
        return message, ELEMENTS_MAX - budget[0]

    def encode(self, values: Mapping[str, Any]) -> bytearray:
        """The bytes of the message. Keys that this version lacks are dropped; missing ones default
        (to null where the schema has no default and allows null)."""
        out = bytearray()
        self._encoder(out, values)
        return out

    def encode_parts(self, values: Mapping[str, Any]) -> list[Buffer]:
        """The bytes of the message, in parts: `Parts` among the values are taken as they are, not copied."""
        out = primitives.Spliced()
        self._encoder(out, values)
        return out.cut()

    @cached_property
    def _decoder(self) -> Decoder:
        source = _Source()
        _write_decoder(source, self.struct, self.key, self.is_request)
        decoder: Decoder = source.compile(f"decode {self!r}")[_function_name(self.struct)]
        return decoder

    def encode_item(self, path: tuple[str, ...], values: Mapping[str, Any]) -> bytearray:
        """The bytes of one nested structure, which `path` names by its fields; see EncodedItems."""
        out = bytearray()
        self._encoders["_".join(("f", *path))](out, values)
        return out

    @cached_property
    def _encoder(self) -> Encoder:
        encoder: Encoder = self._encoders[_function_name(self.struct)]
        return encoder

    @cached_property
    def _encoders(self) -> dict[str, Any]:
        source = _Source()
        _write_encoder(source, self.struct)
        return source.compile(f"encode {self!r}")


@cache
def request_codec(key: int, version: int) -> Codec:
    """The codec of a request. Raises kio's UnknownEntity for a version without a schema: check the version first."""
    return Codec(key, version, is_request=True)


@cache
def response_codec(key: int, version: int) -> Codec:
    return Codec(key, version, is_request=False)


class _Source:
    """Lines of generated Python and the constants that they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {name: getattr(primitives, name) for name in primitives.__all__}

    def add(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)

    def constant(self, prefix: str, value: Any) -> str:
        name = f"{prefix}{len(self.names)}"
        self.names[name] = value
        return name

    def compile(self, title: str) -> dict[str, Any]:
        text = "\n".join(self.lines) + "\n"
        filename = f"<{title}>"
        # So that a traceback through generated code shows the line, and with it the field.
        linecache.cache[filename] = (len(text), None, text.splitlines(True), filename)
        exec(compile(text, filename, "exec"), self.names)
        return self.names


def _function_name(struct: StructSpec) -> str:
    return "_".join(("f", *struct.path))


# --- Decoders -----------------------------------------------------------------------------------


def _write_decoder(source: _Source, struct: StructSpec, key: int, is_request: bool) -> None:
    for field in struct.fields:
        if field.struct is not None:
            _write_decoder(source, field.struct, key, is_request)
    source.add(0, f"def {_function_name(struct)}(b, p, e, c):")
    plain = [field for field in struct.fields if field.tag is None]
    for run in _runs(plain):
        if _is_fixed(run[0]):
            _decode_fixed(source, 1, run, _path(struct, run[0]))
        else:
            _decode_field(source, 1, run[0], struct, "e")
    if struct.flexible:
        _decode_tags(source, struct)
    made = source.constant("C", message_class(struct, key, is_request))
    names = ", ".join(f"v_{field.name}" for field in struct.fields)
    source.add(1, f"return {made}({names}), p")


def _runs(fields: list[FieldSpec]) -> list[list[FieldSpec]]:
    """Neighbouring fields of fixed size together, the others alone."""
    runs: list[list[FieldSpec]] = []
    for field in fields:
        if runs and _is_fixed(field) and _is_fixed(runs[-1][0]):
            runs[-1].append(field)
        else:
            runs.append([field])
    return runs


def _is_fixed(field: FieldSpec) -> bool:
    return field.kind in STRUCT_FORMATS and not field.is_array


def _path(struct: StructSpec, field: FieldSpec) -> str:
    return ".".join((*struct.path, field.name))


def _decode_fixed(source: _Source, depth: int, run: list[FieldSpec], path: str) -> None:
    layout = primitives.Struct(">" + "".join(STRUCT_FORMATS[field.kind] for field in run))
    unpack = source.constant("U", layout.unpack_from)
    targets = ", ".join(f"v_{field.name}" for field in run)
    source.add(depth, f"if e - p < {layout.size}: raise too_short({path!r}, p, {layout.size}, e)")
    source.add(depth, f"{targets}, = {unpack}(b, p)")
    source.add(depth, f"p += {layout.size}")
    for field in run:
        if field.kind == "uuid":
            source.add(depth, f"v_{field.name} = read_uuid(v_{field.name})")


def _decode_field(source: _Source, depth: int, field: FieldSpec, struct: StructSpec, end: str) -> None:
    path = _path(struct, field)
    target = f"v_{field.name}"
    if field.is_array:
        _decode_array(source, depth, field, struct, end)
    elif field.kind == "struct":
        assert field.struct is not None
        call = f"{target}, p = {_function_name(field.struct)}(b, p, {end}, c)"
        if field.nullable and field.tag is None:
            source.add(depth, f"present, p = read_presence(b, p, {end}, {path!r})")
            source.add(depth, "if present:")
            source.add(depth + 1, call)
            source.add(depth, f"else: {target} = None")
        else:
            source.add(depth, call)
    elif field.kind in STRUCT_FORMATS:
        _decode_fixed(source, depth, [field], path)
    else:
        reader = f"read_{'compact_' if struct.flexible else ''}{field.kind}"
        source.add(depth, f"{target}, p = {reader}(b, p, {end}, {field.nullable}, {path!r})")


def _decode_array(source: _Source, depth: int, field: FieldSpec, struct: StructSpec, end: str) -> None:
    path = _path(struct, field)
    target = f"v_{field.name}"
    smallest = field.smallest_element_bytes(struct.flexible)
    counter = f"read_{'compact_' if struct.flexible else ''}count"
    nullable = field.nullable
    source.add(depth, f"n, p = {counter}(b, p, {end}, {smallest}, {nullable}, c, {path!r})")
    source.add(depth, f"if n < 0: {target} = None")
    source.add(depth, "else:")
    depth += 1
    if field.kind in STRUCT_FORMATS:
        source.add(
            depth,
            f"{target} = list(unpack_from(f'>{{n}}{STRUCT_FORMATS[field.kind]}', b, p))"
            if field.kind != "uuid"
            else f"{target} = [read_uuid(bytes(b[q:q + 16])) for q in range(p, p + 16 * n, 16)]",
        )
        source.add(depth, f"p += {smallest} * n")
        return
    source.add(depth, f"{target} = []")
    source.add(depth, f"add = {target}.append")
    source.add(depth, "for _ in range(n):")
    if field.kind == "struct":
        assert field.struct is not None
        source.add(depth + 1, f"x, p = {_function_name(field.struct)}(b, p, {end}, c)")
    else:
        reader = f"read_{'compact_' if struct.flexible else ''}{field.kind}"
        source.add(depth + 1, f"x, p = {reader}(b, p, {end}, False, {path!r})")
    source.add(depth + 1, "add(x)")


def _decode_tags(source: _Source, struct: StructSpec) -> None:
    """Known tags are decoded within their declared size, unknown ones are skipped."""
    path = ".".join((*struct.path, "tags"))
    known = [field for field in struct.fields if field.tag is not None]
    if not known:
        source.add(1, "if p < e and not b[p]: p += 1")
        source.add(1, f"else: p = skip_tags(b, p, e, c, {path!r})")
        return
    for field in known:
        source.add(1, f"v_{field.name} = {_fresh_default(source, field)}")
    source.add(1, f"n, p = read_tag_count(b, p, e, c, {path!r})")
    source.add(1, "for _ in range(n):")
    source.add(2, f"tag, t, p = read_tag(b, p, e, {path!r})")
    for index, field in enumerate(known):
        source.add(2, f"{'if' if index == 0 else 'elif'} tag == {field.tag}:")
        source.add(3, "w, outer, e, b = b, e, t, b[:t]")
        _decode_field(source, 3, field, struct, "e")
        source.add(3, "e, b = outer, w")
        source.add(
            3,
            f"if p != t: raise malformed({_path(struct, field)!r}, p, "
            "'a tagged field does not have the size that it declares')",
        )
    source.add(2, "else: p = t")


def _fresh_default(source: _Source, field: FieldSpec) -> str:
    if isinstance(field.default, list):
        return "[]"
    if field.struct is not None and field.default is not None:
        # A structure's default is decoded from its bytes at each use, so that no message shares a mutable one.
        default = _default_bytes(field, True)
        name = source.constant("D", memoryview(default))
        return f"{_function_name(field.struct)}({name}, 0, {len(default)}, c)[0]"
    return source.constant("D", field.default)


# --- Encoders -----------------------------------------------------------------------------------


def _write_encoder(source: _Source, struct: StructSpec) -> None:
    for field in struct.fields:
        if field.struct is not None:
            _write_encoder(source, field.struct)
    source.add(0, f"def {_function_name(struct)}(o, d):")
    source.add(1, "g = d.get")
    for run in _runs([field for field in struct.fields if field.tag is None]):
        if _is_fixed(run[0]):
            _encode_fixed(source, 1, run)
        else:
            _encode_field(source, 1, run[0], struct.flexible, "o", _got(source, run[0]))
    if struct.flexible:
        _encode_tags(source, struct)
    elif not struct.fields:
        source.add(1, "pass")


def _got(source: _Source, field: FieldSpec) -> str:
    default = field.default
    if isinstance(default, list):
        default = ()
    literal = (
        repr(default)
        if isinstance(default, int | str | bytes | float | tuple | None)
        else source.constant("D", default)
    )
    return f"g({field.name!r}, {literal})"


def _encode_fixed(source: _Source, depth: int, run: list[FieldSpec]) -> None:
    layout = primitives.Struct(">" + "".join(STRUCT_FORMATS[field.kind] for field in run))
    pack = source.constant("P", layout.pack)
    values = []
    for field in run:
        got = _got(source, field)
        if field.kind == "uuid":
            got = f"write_uuid({got})"
        elif field.kind == "datetime_i64":
            got = f"write_datetime({got})"
        values.append(got)
    source.add(depth, f"o += {pack}({', '.join(values)})")


def _encode_field(source: _Source, depth: int, field: FieldSpec, flexible: bool, out: str, value: str) -> None:
    compact = "compact_" if flexible else ""
    if field.is_array:
        source.add(depth, f"a = write_{compact}count({out}, {value}, {field.nullable})")
        if field.kind in STRUCT_FORMATS:
            items = "map(write_uuid, a)" if field.kind == "uuid" else "a"
            form = STRUCT_FORMATS[field.kind]
            source.add(depth, f"{out} += pack('>' + {form!r} * len(a), *{items})")
            return
        source.add(depth, "for i in a:")
        if field.kind == "struct":
            assert field.struct is not None
            source.add(depth + 1, f"{_function_name(field.struct)}({out}, i)")
        else:
            source.add(depth + 1, f"write_{compact}{field.kind}({out}, i, False)")
    elif field.kind == "struct":
        assert field.struct is not None
        source.add(depth, f"x = {value}")
        call = f"{_function_name(field.struct)}({out}, x)"
        if field.nullable and field.tag is None:
            source.add(depth, f"{out}.append(255 if x is None else 1)")
            source.add(depth, f"if x is not None: {call}")
        else:
            source.add(depth, call)
    elif field.kind in STRUCT_FORMATS:
        pack = source.constant("P", primitives.Struct(">" + STRUCT_FORMATS[field.kind]).pack)
        value = f"write_uuid({value})" if field.kind == "uuid" else value
        source.add(depth, f"{out} += {pack}({value})")
    else:
        source.add(depth, f"write_{compact}{field.kind}({out}, {value}, {field.nullable})")


def _encode_tags(source: _Source, struct: StructSpec) -> None:
    """Tags in ascending order, and only those whose bytes differ from the default's."""
    known = sorted((field for field in struct.fields if field.tag is not None), key=lambda f: f.tag or 0)
    if not known:
        source.add(1, "o.append(0)")
        return
    source.add(1, "n = 0")
    source.add(1, "tags = bytearray()")
    for field in known:
        default = source.constant("D", bytes(_default_bytes(field, struct.flexible)))
        source.add(1, f"if {field.name!r} in d:")
        source.add(2, "t = bytearray()")
        _encode_field(source, 2, field, struct.flexible, "t", f"d[{field.name!r}]")
        source.add(2, f"if t != {default}:")
        source.add(3, "n += 1")
        source.add(3, f"write_uvarint(tags, {field.tag})")
        source.add(3, "write_uvarint(tags, len(t))")
        source.add(3, "tags += t")
    source.add(1, "write_uvarint(o, n)")
    source.add(1, "o += tags")


def _default_bytes(field: FieldSpec, flexible: bool) -> bytearray:
    source = _Source()
    if field.struct is not None:
        _write_encoder(source, field.struct)
    source.add(0, "def default(o, d):")
    source.add(1, "g = d.get")
    _encode_field(source, 1, field, flexible, "o", _got(source, field))
    out = bytearray()
    source.compile(f"default of {field.name}")["default"](out, {})
    return out
