"""Make .trwkv model files from RWKV checkpoints: PyTorch, safetensors, GGUF and rwkv.cpp files, without PyTorch."""
