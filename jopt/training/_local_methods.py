"""The methods of local updates by their names in a config, and what each reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jopt import optimizers
from jopt.transforms import Compressor, LocalUpdates, e3m0, int4, int8, two_bit

TABLE = "local_updates"


class Method(NamedTuple):
    """A method by its name in a config.

    Attributes:
        make: from the inner optimizer and keyword arguments.
        defaults: the function whose defaults are those of a config.
        reads: keys of `local_updates` that it has beside those of all methods.
        rate: its learning rate stands outside of the inner optimizer.
        compresses: whether what is sent may be codes.
    """

    make: Callable[..., LocalUpdates]
    defaults: Callable[..., LocalUpdates]
    reads: tuple[str, ...] = ()
    rate: bool = False
    compresses: bool = True


_OUTER = ("outer_learning_rate", "outer_momentum")
# What the data of a run reads, and no method.
OF_THE_RUN = ("pseudo_sync_consumes_batch",)
_NESTEROV = (*_OUTER, "outer_warmup", "outer_final")
METHODS = {
    "local_sgd": Method(optimizers.local_sgd, optimizers.local_sgd),
    "post_local_sgd": Method(optimizers.post_local_sgd, optimizers.post_local_sgd),
    "slowmo": Method(
        optimizers.slowmo, optimizers.slowmo, ("alpha", "beta"), rate=True
    ),
    "diloco": Method(optimizers.diloco, optimizers.diloco, _NESTEROV),
    # Muon is in the rules already.
    "muloco": Method(optimizers.diloco, optimizers.muloco, _NESTEROV),
    "streaming_diloco": Method(
        optimizers.streaming_diloco,
        optimizers.streaming_diloco,
        (*_NESTEROV, "fragments", "delay", "mix", "strict"),
    ),
    "eager_diloco": Method(
        optimizers.eager_diloco, optimizers.eager_diloco, _NESTEROV, compresses=False
    ),
    "palsgd": Method(
        optimizers.palsgd,
        optimizers.palsgd,
        (
            *_NESTEROV,
            *("probability", "strength", "learning_rate"),
            *("coupled", "shared_coin", "pull_match"),
            *OF_THE_RUN,
        ),
        rate=True,
    ),
    "noloco": Method(
        optimizers.noloco, optimizers.noloco, (*_OUTER, "consensus"), compresses=False
    ),
}
MODES = ("auto", "shard_map", "vmap")
COMPRESSORS: dict[str, Callable[[], Compressor]] = {
    "int8": int8,
    "int4": int4,
    "e3m0": e3m0,
    "two_bit": two_bit,
}
CHOICES = {
    "name": ("none", *METHODS),
    "compressor": ("none", *COMPRESSORS, "top_k"),
    "mode": MODES,
    "eval_params": ("anchor", "mean", "replica0"),
}
# Of every method, and unset where a run does not say them.
SHARED = ("replicas", "period")
# Those that some methods read.
OWN_KEYS = (
    *dict.fromkeys(key for method in METHODS.values() for key in method.reads),
    "error_feedback",
    "top_share",
)
# Where no signature has a default.
DEFAULTS = {
    "outer_warmup": 0.0,
    "outer_final": 1.0,
    "fragments": 2,
    "strict": False,
    "shared_coin": False,
    "pseudo_sync_consumes_batch": True,
    "error_feedback": 1.0,
    "top_share": 0.01,
}
# Keys that may stay unset.
OPTIONAL = ("replicas", "pull_match")
