"""Scripts, the commander, the examples for robots."""
