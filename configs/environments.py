"""A learning algorithm over several environments, from one config.

python train.py --config=configs/environments.py
python train.py --config=configs/environments.py:irm,coloured_digits
python train.py --config=configs/environments.py:group_dro,rotated_digits
python train.py --config=configs/environments.py:vrex --config.data.test_envs=0,

Half a minute at most. On coloured digits, 600 steps of 2 x 64 images, ERM has an ID
accuracy of 0.856 +- 0.006 and an OOD accuracy of 0.221 +- 0.022, IRM 0.846 +- 0.011 and
0.158 +- 0.031 (n=3 seeds, standard deviation): with 480 images of an environment a
network can learn their noise by heart. Neither was tuned.
"""

from jopt.training import environment_presets, presets


def get_config(arg=""):
    algorithm, _, task = (arg or "irm").partition(",")
    config = environment_presets.environments(algorithm, task or "coloured_digits")
    for key in config.objective.algorithm:
        if key.endswith("anneal_steps"):
            config.objective.algorithm[key] = 100  # of 600
    config.optim.order = ("all",)
    config.optim.rules.all = presets.rule(r".*", "adamw", 0.001)
    return config
