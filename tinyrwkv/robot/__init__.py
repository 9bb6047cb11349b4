"""A robot that is told what to do: scripts that it can run, thinking in slices of time, how sure to be."""
