"""Speculative decoding: a cheap draft proposes tokens, the target verifies them in one call, its law unchanged."""
