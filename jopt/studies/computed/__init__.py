"""Studies whose rows are computed in one process, without runs of `train.py`."""
