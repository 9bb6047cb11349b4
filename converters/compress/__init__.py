"""Presets, the search under a memory budget, and the pipeline that applies techniques in stages."""
