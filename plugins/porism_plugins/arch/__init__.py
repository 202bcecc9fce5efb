"""Architectures and training objectives of language models: positions, attention, long context."""
