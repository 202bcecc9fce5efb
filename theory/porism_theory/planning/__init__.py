"""Theory of planning and policy optimisation."""
