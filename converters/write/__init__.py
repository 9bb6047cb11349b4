"""Writers of .trwkv files: how each tensor is made, in which type, and the vocabulary."""
