"""A model file as a program: the table of operations that the kernels walk for a token."""
