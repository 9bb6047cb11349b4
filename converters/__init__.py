"""Make .trwkv model files from RWKV checkpoints, without PyTorch.

Checkpoints may be PyTorch, safetensors, GGUF and rwkv.cpp files.
"""
