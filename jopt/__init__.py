"""jopt: optimizer research in JAX, layer by layer."""
