"""Parameter-efficient fine-tuning: linear layers with small trainable increments beside frozen weights."""
