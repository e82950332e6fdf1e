"""Trains digits with a batch that grows, on 1 and on 2 devices.

python adaptive_worker.py FOLDER [FLAG ...]
    writes FOLDER/1 and FOLDER/2, two run folders
"""

import sys

from jopt.training.main import main

if __name__ == "__main__":
    folder, *flags = sys.argv[1:]
    for devices in (1, 2):
        where = f"--workdir={folder}/{devices}"
        code = main([*flags, f"--config.mesh.data={devices}", where])
        assert code == 0, code
