"""Write what a firmware needs to run a model on a microcontroller."""
