"""What `probe` computes from the checkpoints of a run."""
