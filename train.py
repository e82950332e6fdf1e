"""Trains the model that a config describes.

python train.py --config=configs/muon_lm.py
"""

import time

PROCESS_START = time.monotonic()

if __name__ == "__main__":
    import sys

    from jopt.training.main import main

    sys.exit(main(process_start=PROCESS_START))
