"""A robot that takes orders: scripts it can run, thinking in slices of time, how sure it is."""
