"""Optimisers: they step on matrices as matrices, and on everything else as AdamW does."""
