"""Answers of a given form: `Choice`, `Regex` and `JsonSchema`."""

from .choice import Choice
from .json_schema import JsonSchema
from .regex import Regex

__all__ = ["Choice", "JsonSchema", "Regex"]
