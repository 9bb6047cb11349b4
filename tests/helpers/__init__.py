"""What several tests use: tiny models, checkpoints, terminals."""
