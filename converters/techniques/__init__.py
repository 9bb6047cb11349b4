"""The compression techniques: pure functions of arrays."""
