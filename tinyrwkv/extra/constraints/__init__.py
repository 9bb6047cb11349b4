"""Answers of a given form: `Choice`, `Regex` and `JsonSchema`."""

from .constraint import Choice, Regex

__all__ = ["Choice", "Regex"]
