"""The optional part of the build; all else is in pyproject.toml.

Without a compiler Penstock does the same in Python.
"""

from setuptools import Extension, setup

NATIVE = {
    "gateway.records._native": "gateway/records/_native.c",
    "gateway.network._draining": "gateway/network/_draining.c",
    "gateway.network._sessions": "gateway/network/_sessions.c",
}

DEPENDS = {"gateway.network._sessions": ["gateway/network/_openssl.h"]}

setup(
    ext_modules=[
        Extension(name, [source], depends=DEPENDS.get(name, []), optional=True) for name, source in NATIVE.items()
    ]
)
