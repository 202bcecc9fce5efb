"""Theory of optimisation dynamics."""
