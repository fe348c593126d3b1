"""Cloud packaging tools need this file; the settings are in pyproject.toml."""

from setuptools import setup

setup()
