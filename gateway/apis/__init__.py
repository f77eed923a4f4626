"""The Kafka APIs that we serve: one module each, named as in Kafka, and discovered.

Keeps: nothing else lists APIs. A module of this package whose `API` is an Api is served.
"""

import importlib
import pkgutil
from functools import cache

from gateway.dispatch.registry import Api, Registry


@cache
def discover() -> Registry:
    """Every API of this package."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    found = (getattr(module, "API", None) for module in modules)
    return Registry([api for api in found if isinstance(api, Api)])
