"""Robust Markov decision processes: uncertainty sets, exact planning, mirror descent, learning from samples."""
