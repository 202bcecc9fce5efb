"""Quantisation: weights as packed codes with a scale a block, and low-rank terms that repair them."""
