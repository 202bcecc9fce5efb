"""Mixtures of experts: feed-forward layers of which each token uses a part."""
