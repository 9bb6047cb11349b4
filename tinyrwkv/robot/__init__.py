"""A robot that takes orders: its scripts, work in slices of time, and how sure the model is."""
