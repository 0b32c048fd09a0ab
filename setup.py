"""Lets tools that predate pyproject.toml install the project; all metadata is in pyproject.toml."""

from setuptools import setup

setup()
