"""Fuzzers: hostile inputs for every parser, many a second, each either read or refused."""
