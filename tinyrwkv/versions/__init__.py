"""The RWKV versions: the mathematics of each as readable NumPy, and the tensors that each has."""
