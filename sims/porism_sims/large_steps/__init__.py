"""Gradient descent with large steps: factorised models in two dimensions, and small networks."""
