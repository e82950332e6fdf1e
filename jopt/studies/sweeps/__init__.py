"""Sweeps: arms and their spaces, jobs, queues and workers."""
