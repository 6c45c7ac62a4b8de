"""The HTTP edge: one module per route. Parsing and rendering, nothing else."""
