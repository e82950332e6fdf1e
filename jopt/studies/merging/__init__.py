"""Studies of merging: eight tasks of real digits, and how their sources were trained.

`digits` asks what conditioning repairs in a perceptron, `vit` in attention, `ablations`
what it depends on, `optimizers` what the optimizer of the fine-tuning changes.
"""

from jopt.studies.merging._files import validation_accuracies

__all__ = ["validation_accuracies"]
