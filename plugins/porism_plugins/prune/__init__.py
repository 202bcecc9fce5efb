"""Pruning: weights, channels or attention heads that a model can do without are set to zero or taken out."""
