"""The kernels compiled ahead of time: an object for each instruction set, and their loader."""
