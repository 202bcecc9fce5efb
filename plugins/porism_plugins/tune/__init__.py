"""Tuning: losses that fine-tune language models beyond the likelihood of the next token."""
