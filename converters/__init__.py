"""Make .trwkv model files from RWKV checkpoints, without PyTorch.

Checkpoints may be PyTorch, safetensors, GGUF and rwkv.cpp files.
"""

from tinyrwkv import starting  # noqa: F401, before what takes time
