"""One process's configuration: the layers merged, judged as a whole, and told.

Keeps: a `Config` that `load` returns is valid, never changes, and knows where each of its values came from. Layers, the
later the stronger: defaults, TOML file, `PENSTOCK_*` environment, flags. No message shows a secret.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from gateway.config_fields import HIDDEN, allowed, document, is_secret, plain, type_name
from gateway.config_layers import (
    ConfigError,
    Given,
    Layer,
    assignments_layer,
    environment_layer,
    file_layer,
)
from gateway.config_model import IDLE_MS_MIN, Config
from gateway.config_secrets import with_files
from gateway.config_tiering import Bucket, Directory, TieringKeys
from gateway.datadir import STORE_DIRECTORY

__all__ = ["FIELDS", "Config", "describe", "load"]

LOG_FILES_MIN: Final = 4
"""Files that `log.max.bytes` has room for at least: one is written, one prepared; what leaves, leaves by files."""

_SECRET_NAME: Final = re.compile("secret|password|token|access.?key")


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Given] | None = None,
) -> Config:
    """Merge the layers and check the result. Raises ConfigError with every problem found."""
    layers: list[Layer] = [file_layer(file)] if file is not None else []
    layers.append(environment_layer(os.environ if environ is None else environ))
    layers.append(assignments_layer(assignments))
    layers.append(flags or {})
    given: dict[str, Given] = {}
    for layer in layers:
        given.update(layer)
    if unknown := [_unknown(key, value) for key, value in given.items() if key not in FIELDS]:
        raise ConfigError(unknown)
    given = with_files(given)
    values: dict[str, Any] = {key: value.value for key, value in given.items()}
    try:
        config = Config(**values)
    except ValidationError as exc:
        raise ConfigError(list(_wrong(exc, given))) from exc
    config._sources = {key: value.source for key, value in given.items()}
    if problems := list(_contradictions(config)):
        raise ConfigError(problems)
    return config


def describe(config: Config) -> list[dict[str, object]]:
    """Every key: what it is, what it would be, and who said so."""
    return [
        {
            "key": key,
            "value": plain(getattr(config, attribute), field),
            "default": plain(field.default, field),
            "source": config._sources.get(key, "default"),
            "type": type_name(field),
            "doc": document(field),
        }
        for key, (attribute, field) in FIELDS.items()
    ]


def _unknown(key: str, given: Given) -> str:
    """A message about a key that does not exist."""
    near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.0)
    hint = f"nearest known key: {near[0]} ({allowed(FIELDS[near[0]][1])}); " if near else ""
    value = HIDDEN if _SECRET_NAME.search(key) else repr(given.value)
    return f"unknown key {key} = {value} ({given.source}); {hint}see `penstock config`"


def _wrong(error: ValidationError, given: Mapping[str, Given]) -> Iterator[str]:
    """Messages about values that their keys do not allow, one per key."""
    seen: set[str] = set()
    for detail in error.errors(include_url=False):
        key = str(detail["loc"][0])
        if key in seen:
            continue
        seen.add(key)
        cause = detail.get("ctx", {}).get("error")
        why = f"{cause}; " if isinstance(cause, ValueError) else ""
        field = FIELDS[key][1]
        value = HIDDEN if is_secret(field) else repr(given[key].value)
        yield f"{key} = {value} ({given[key].source}): {why}allowed: {allowed(field)}"


def _contradictions(config: Config) -> Iterator[str]:
    """Keys that are fine alone but not together."""
    low, high = config.group_min_session_timeout_ms, config.group_max_session_timeout_ms
    if low > high:
        key = "group.min.session.timeout.ms"
        yield f"{_said(config, key)}: allowed: at most group.max.session.timeout.ms, which is {high}"
    if not config.retention_ms:
        key = _deciding(config, "log.retention.ms", "log.retention.minutes", "log.retention.hours")
        yield f"{_said(config, key)}: allowed: {allowed(FIELDS[key][1])}; records would go as they come"
    if 0 <= config.connections_max_idle_ms < IDLE_MS_MIN:
        key = "connections.max.idle.ms"
        yield f"{_said(config, key)}: allowed: {allowed(FIELDS[key][1])}"
    if config.tier2 != "off":
        yield from _sizes_of_tiers(config)
    yield from _place_of_tier2(config)


def _deciding(config: Config, *keys: str) -> str:
    """The first key that has a value."""
    return next(key for key in keys if getattr(config, FIELDS[key][0]) is not None)


def _sizes_of_tiers(config: Config) -> Iterator[str]:
    if config.log_max_bytes < LOG_FILES_MIN * config.log_file_bytes:
        yield (
            f"{_said(config, 'log.max.bytes')}: allowed: at least {LOG_FILES_MIN} times log.file.bytes, "
            f"which is {config.log_file_bytes}: what leaves the log, leaves it by whole files"
        )
    if config.chunk_bytes > config.log_max_bytes // 2:
        yield (
            f"{_said(config, 'chunk.bytes')}: allowed: at most half of log.max.bytes, which is {config.log_max_bytes}: "
            "the log must have room for more while a chunk is made"
        )
    if config.tier2_read_ahead_bytes > config.tier2_cache_bytes:
        yield (
            f"{_said(config, 'tier2.read.ahead.bytes')}: allowed: at most tier2.cache.bytes, "
            f"which is {config.tier2_cache_bytes}: what was read ahead waits there"
        )


def _place_of_tier2(config: Config) -> Iterator[str]:
    if (config.tier2_access_key is None) != (config.tier2_secret_key is None):
        there, missing = "tier2.access.key", "tier2.secret.key"
        if config.tier2_access_key is None:
            there, missing = missing, there
        yield f"{there} is set ({_source(config, there)}) and {missing} is not: they belong together"
    match config.tier2:
        case Directory() as place:
            store = (config.data_dir / STORE_DIRECTORY).absolute()
            path = place.below(config.data_dir)
            if path in (config.data_dir.absolute(), store) or store in path.parents:
                yield f"{_said(config, 'tier2')}: allowed: no directory that Penstock uses for something else"
        case Bucket():
            yield from _endpoint(config)
            return
    if config.tier2_endpoint is not None:
        yield (
            f"tier2.endpoint is set ({_source(config, 'tier2.endpoint')}), which has a meaning with "
            f"tier2 = s3://BUCKET/PREFIX only: here {_said(config, 'tier2')}"
        )


def _endpoint(config: Config) -> Iterator[str]:
    if config.tier2_endpoint is None:
        return
    try:
        url = urlsplit(config.tier2_endpoint)
        known = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:  # a port that is none
        known = False
    if not known or url.path.strip("/") or url.query or url.fragment or url.username is not None:
        # It is not quoted: what stands before an @ in it is a secret.
        yield (
            f"tier2.endpoint ({_source(config, 'tier2.endpoint')}) is no address of an S3 store: allowed: "
            f"{allowed(FIELDS['tier2.endpoint'][1])}, without a path or credentials in it"
        )


def _said(config: Config, key: str) -> str:
    """A key with its value and where that came from."""
    attribute, field = FIELDS[key]
    return f"{key} = {plain(getattr(config, attribute), field)} ({_source(config, key)})"


def _source(config: Config, key: str) -> str:
    return config._sources.get(key, "default")


_IN_ORDER: Final = sorted(Config.model_fields.items(), key=lambda item: item[0] in TieringKeys.model_fields)
FIELDS: Final[Mapping[str, tuple[str, FieldInfo]]] = {field.alias or name: (name, field) for name, field in _IN_ORDER}
"""Every key, in the order in which they are told."""
