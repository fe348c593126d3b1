"""Cloud packaging looks for this file; all it says is in pyproject.toml."""

from setuptools import setup

setup()
