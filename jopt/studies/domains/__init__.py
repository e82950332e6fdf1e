"""Optimizers as a factor of generalization out of distribution."""
