"""Writers of .trwkv files: the recipe from a checkpoint's tensors to the file's, int8, the vocabulary."""
