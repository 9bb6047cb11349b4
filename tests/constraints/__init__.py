"""Answers of a given form."""
