"""What tests of engines share."""

from helpers.pictures import figures

__all__ = ["figures"]
