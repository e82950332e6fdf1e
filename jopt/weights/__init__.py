"""Parameters in files of several formats, the names of torch, and merging on disk.

The edge of `jopt.merging`: what is read and written is here, what is computed is there.
"""
