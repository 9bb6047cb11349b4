"""How good and how dear a model is: losses, answers, bytes and time."""
