"""The kernels compiled ahead of time: one small shared object for each instruction set, and which one to load."""
