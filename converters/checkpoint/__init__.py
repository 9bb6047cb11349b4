"""What a checkpoint is: its RWKV version, its sizes, and one set of names for all its dialects."""
