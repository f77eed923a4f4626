"""The credentials of long-term storage as they are now: read again from their source.

`tier2.rotating_keys` asks for them when the server refuses the former ones.

To rotate keys, replace the file that `tier2.credentials.file` names, or the configuration file itself. Values from a
flag or from the environment of the process cannot change while it runs.

Keeps: a file that is missing or half written leaves the credentials as they were, and is logged; no message has a key
or a secret in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from gateway.config.layers import ConfigError, file_layer
from gateway.config.model import Config
from gateway.long_term.credentials import Credentials, find_credentials
from tier2.rotating_keys import Keys, ReadKeys

logger = logging.getLogger(__name__)

FILE_SOURCE: Final = "file "
"""The prefix of the source of each value that `gateway.config.layers.file_layer` has read."""
KEY_NAMES: Final = {"tier2.access.key": "tier2_access_key", "tier2.secret.key": "tier2_secret_key"}


def credentials_now(config: Config, environ: Mapping[str, str]) -> Credentials:
    """The winning credentials, read again from their place. Blocks. Raises ConfigError."""
    changed: dict[str, SecretStr] = {}
    for key, attribute in KEY_NAMES.items():
        source = config._sources.get(key, "")
        if source.startswith(FILE_SOURCE):
            given = file_layer(Path(source.removeprefix(FILE_SOURCE))).get(key)
            if given is None or not given.value:
                raise ConfigError([f"{source}: {key} is not there any more"])
            changed[attribute] = SecretStr(str(given.value))
    return find_credentials(config.model_copy(update=changed), environ)


def key_reader(config: Config, environ: Mapping[str, str]) -> ReadKeys:
    """A function that reads the keys on each call."""

    def read() -> Keys | None:
        try:
            found = credentials_now(config, environ)
        except ConfigError as error:
            logger.warning("credentials were refused and cannot be read again", extra={"reason": str(error)})
            return None
        return Keys(access_key=found.access_key, secret_key=found.secret_key, session_token=found.session_token)

    return read
