"""The version of the package: the build, ``--version`` and result documents take it from here."""

__version__ = "0.1.0"
