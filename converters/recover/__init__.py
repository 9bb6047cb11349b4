"""Recovery: the rounded model is trained to predict what its own float original predicts."""
