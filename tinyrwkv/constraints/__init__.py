"""Answers of a given form: `Choice`, `Regex` and `JsonSchema`."""

from .constraint import Choice, Regex
from .json_schema import JsonSchema

__all__ = ["Choice", "JsonSchema", "Regex"]
