"""The variance-preserving diffusion with exact scores: its process and samplers, data on subspaces and on manifolds."""
