"""The command line; :func:`main` is the program."""

from decompose_cli.cli.app import main

__all__ = ["main"]
