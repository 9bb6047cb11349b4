"""How good a model is and what a token costs: losses, answers, bytes."""
