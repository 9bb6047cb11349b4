"""Readers of the files that people have: each yields names and arrays, one tensor at a time."""
