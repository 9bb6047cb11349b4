"""Guesses of the tokens that follow, so that several are read with one reading of the weights."""

from .speculation import start

__all__ = ["start"]
