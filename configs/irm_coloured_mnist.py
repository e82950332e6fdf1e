"""IRM on coloured MNIST with the settings of its paper, and ERM beside it.

python train.py --config=configs/irm_coloured_mnist.py
python train.py --config=configs/irm_coloured_mnist.py:erm --config.seed=1

Arjovsky et al., 2019, arXiv 1907.02893: a perceptron of two hidden layers of 390, 501
steps of Adam on whole environments, the penalty's weight from 1 to 91257 at step 190;
`erm` has no penalty and no anneal. Needs the 60,000 images (docs/ood.md,
"Environments").

The paper's code divides the loss by the weight after the anneal, an L2 term included,
which Adam undoes but for its eps; here nothing is divided. Ours: the state of Adam
starts anew at the anneal, a fifth of each training environment is held out for ID
figures, two logits take the place of one, and the head starts at zero.
"""

from jopt.training import environment_presets, presets

RATE, L2 = 4.898536566546834e-4, 1.10794568e-3
SETTINGS = {
    "irm": {"penalty_weight": 91257.18613, "anneal_steps": 190, "estimator": "full"},
    "erm": {},
}
ROWS = 20_000  # of 25,000 of each training environment: a step sees all


def get_config(arg=""):
    algorithm = arg or "irm"
    config = environment_presets.environments(algorithm, "coloured_mnist_original")
    config.objective.algorithm.update(SETTINGS[algorithm])
    config.model.update(hidden_dim=390)
    config.train.update(steps=501, batch_size=2 * ROWS, compute_dtype="float32")
    config.train.schedule.name = "constant"
    config.eval.update(every_steps=100, batch_size=2_000)
    config.optim.order = ("weights", "biases")
    config.optim.rules.weights = presets.rule(
        r"/kernel$", "torch_adam", RATE, weight_decay=2 * L2
    )
    config.optim.rules.biases = presets.rule(r"/bias$", "torch_adam", RATE)
    return config
