"""The engine: files, kernels, programs, models, generation."""
