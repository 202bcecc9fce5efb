"""Theory of diffusion models."""
