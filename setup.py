"""The optional part of the build; all else is in pyproject.toml.

Without a compiler Penstock does the same in Python.
"""

from setuptools import Extension, setup

setup(ext_modules=[Extension("gateway.records._native", ["gateway/records/_native.c"], optional=True)])
