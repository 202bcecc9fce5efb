"""Key-value caches of transformers that hold what a model has read in fewer bytes."""
