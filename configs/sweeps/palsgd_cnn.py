"""palsgd_lm.py for a convolutional network on 5,000 images of MNIST.

python -m jopt sweep --config=configs/sweeps/palsgd_cnn.py

AdamW; `palsgd_first` pulls the kernel of the first convolution alone. `python -m jopt
study palsgd_cnn` runs and compares it.
"""

from jopt.studies import compare_palsgd

# Twice and half of it are worse for data parallelism and for PALSGD, one run each.
RATE = 0.012


def get_config(arg=""):
    rate = "optim.rules.all.learning_rate"
    first = r"^layers/0/conv/kernel"
    config = compare_palsgd("configs/images.py:cnn,mnist5k", rate, RATE, first, arg)
    config.metric = "eval/loss"
    return config
