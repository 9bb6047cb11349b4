"""Compression: options, presets, the search under a memory budget, the pipeline of stages."""
