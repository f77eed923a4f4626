"""One process's configuration: the layers merged, judged as a whole, and described.

Keeps: a `Config` that `load` returns is valid, never changes, and knows the source of each of its values. Layers,
weakest first: defaults, TOML file, `PENSTOCK_*` environment, flags. No message shows a secret.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from gateway.config.conflicts import Origins, conflicts
from gateway.config.fields import HIDDEN, allowed, document, is_secret, plain, shown, type_name
from gateway.config.layers import (
    ConfigError,
    Given,
    Layer,
    assignments_layer,
    environment_layer,
    file_layer,
)
from gateway.config.listener_keys import apart
from gateway.config.model import Config
from gateway.config.secrets import with_files
from gateway.config.tiering import TieringKeys

__all__ = ["FIELDS", "Config", "describe", "load"]

_SECRET_NAME: Final = re.compile("secret|passw|passphrase|token|key|credential")


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
    given, own_keys = apart(given)
    if unknown := [_unknown(key, value) for key, value in given.items() if key not in FIELDS]:
        raise ConfigError(unknown)
    given = with_files(given)
    values: dict[str, Any] = {key: value.value for key, value in given.items()}
    try:
        config = Config(**values)
    except ValidationError as exc:
        raise ConfigError(list(_wrong(exc, given))) from None  # its text would show the values
    config._sources = {key: value.source for key, value in given.items()}
    config._own_keys = own_keys.securities(config, {address.name for address in config.listeners})
    texts = {
        key: f"{key} = {shown(plain(getattr(config, name), field), quoted=False)}"
        for key, (name, field) in FIELDS.items()
    }
    if problems := list(conflicts(config, Origins(config._sources, texts))):
        raise ConfigError(problems)
    return config


def describe(config: Config) -> list[dict[str, object]]:
    """Every key with its value, default, source, type and meaning."""
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


def files_of(config: Config) -> list[Path]:
    """The files that the configuration was read from, and the files that it names."""
    named = [config.tier2_credentials_file, config.tier2_ca_file, config.http_tls_keystore_location]
    for listener in {address.name for address in config.listeners}:
        keys = config.security_of(listener)
        named += [keys.ssl_keystore_location, keys.ssl_truststore_location, keys.sasl_plain_users_file]
    read = {source.removeprefix("file ") for source in config._sources.values() if source.startswith("file ")}
    return [*map(Path, read), *(path for path in named if path is not None)]


def _unknown(key: str, given: Given) -> str:
    """A message about a key that does not exist."""
    near = difflib.get_close_matches(key, FIELDS, n=1, cutoff=0.0)
    hint = f"nearest known key: {near[0]} ({allowed(FIELDS[near[0]][1])}); " if near else ""
    hidden = _SECRET_NAME.search(key) or any(is_secret(FIELDS[name][1]) for name in near)  # a misspelt secret key
    value = HIDDEN if hidden else shown(given.value)
    return f"unknown key {shown(key, quoted=False)} = {value} ({given.source}); {hint}see `penstock config`"


def _wrong(error: ValidationError, given: Mapping[str, Given]) -> Iterator[str]:
    """Messages about disallowed values, one per key."""
    seen: set[str] = set()
    for detail in error.errors(include_url=False):
        key = str(detail["loc"][0])
        if key in seen:
            continue
        seen.add(key)
        cause = detail.get("ctx", {}).get("error")
        why = f"{shown(str(cause), quoted=False)}; " if isinstance(cause, ValueError) else ""
        field = FIELDS[key][1]
        value = HIDDEN if is_secret(field) else shown(given[key].value)
        yield f"{key} = {value} ({given[key].source}): {why}allowed: {allowed(field)}"


_IN_ORDER: Final = sorted(Config.model_fields.items(), key=lambda item: item[0] in TieringKeys.model_fields)
FIELDS: Final[Mapping[str, tuple[str, FieldInfo]]] = {field.alias or name: (name, field) for name, field in _IN_ORDER}
"""Every key, in the order of `penstock config`."""
