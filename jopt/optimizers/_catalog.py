"""The optimizers that a rule can name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import optax

from jopt.errors import ConfigError, check_choice, import_name
from jopt.optimizers._aurora import aurora
from jopt.optimizers._dion import dion, dion2
from jopt.optimizers._muon import muon
from jopt.optimizers._namo import muon2, namo
from jopt.optimizers._normuon import adamuon, normuon
from jopt.optimizers._polar_grad import polar_grad, spec_gd
from jopt.optimizers._sa_sam import sa_sam
from jopt.optimizers._scion import scion
from jopt.optimizers._shampoo import shampoo
from jopt.optimizers._sign import lion, sign_sgd, signum
from jopt.optimizers._sign_muon import lion_muon, sign_muon
from jopt.optimizers._smoothness import adgd, delta_sgd
from jopt.optimizers._soap import soap, soap_muon
from jopt.optimizers._spec_sign import spec_sign, spec_sign_needs
from jopt.optimizers._torch_forms import torch_adam, torch_rmsprop, torch_sgd

# Arguments that a rule cannot set: they follow from the model and the mesh.
FROM_MODEL = frozenset({"matrix_specs", "shardings"})


@dataclasses.dataclass(frozen=True)
class Entry:
    """An optimizer as rules use it: one chain for all parameters that the rule matches.

    Attributes:
        constructor: `constructor(learning_rate, **keyword arguments)`. A rule may set
            any argument that its signature names. `matrix_specs` and `shardings` are
            passed to it if it has arguments of these names.
        scale_free: a common factor on all gradients has no effect on the updates, with
            the default arguments.
        spectral: every parameter must be a matrix.
        signs: its steps are steepest in the largest entry.
        whole_tree: its step depends on all parameters together, so no rule can give it
            some of them: `optim.whole_tree.optimizer` names it.
        needs: extra args (`jopt.optimizers.EXTRA_ARGS`) that it asks for, or a function
            that tells them from the arguments of a rule; see `needs_of`.
    """

    constructor: Callable[..., optax.GradientTransformation]
    scale_free: bool = False
    spectral: bool = False
    signs: bool = False
    whole_tree: bool = False
    needs: frozenset[str] | Callable[[Mapping[str, Any]], frozenset[str]] = frozenset()

    def needs_of(self, arguments: Mapping[str, Any]) -> frozenset[str]:
        """The extra args that it asks for with these keyword arguments.

        >>> sorted(CATALOG["spec_sign"].needs_of({"criterion": "det"}))
        ['activation_grams']
        """
        return self.needs(arguments) if callable(self.needs) else self.needs

    @property
    def geometry(self) -> str:
        """The norm, a key of `jopt.linalg.GEOMETRIES`, in which its steps are measured.

        `spectral` or `sign`, and `euclidean` for all others.

        >>> [CATALOG[name].geometry for name in ("muon", "lion", "adamw")]
        ['spectral', 'sign', 'euclidean']
        """
        return "spectral" if self.spectral else "sign" if self.signs else "euclidean"


def _pair_needs(arguments: Mapping[str, Any]) -> frozenset[str]:
    """A second gradient on this batch, unless the last one is kept."""
    stored = arguments.get("gradient_pair", "same_batch") == "stored"
    alone = stored and not arguments.get("start_up", False)
    return frozenset() if alone else frozenset({"grad_fn"})


EXTRA_ARGS = frozenset(
    {
        "value",
        "grad_fn",
        "value_and_grad_fn",
        "half_difference",
        "activation_grams",
        "max_attention_logits",
        "learning_rate_factor",
        "key",
    }
)

CATALOG: dict[str, Entry] = {
    "sgd": Entry(optax.sgd),
    "adamw": Entry(optax.adamw),
    "torch_sgd": Entry(torch_sgd),
    "torch_rmsprop": Entry(torch_rmsprop),
    "torch_adam": Entry(torch_adam),
    "muon": Entry(muon.matrices, scale_free=True, spectral=True),
    "sign_sgd": Entry(sign_sgd, scale_free=True, signs=True),
    "normuon": Entry(normuon.matrices, scale_free=True, spectral=True),
    "adamuon": Entry(adamuon.matrices, scale_free=True, spectral=True),
    "namo": Entry(namo.matrices, spectral=True),
    "muon2": Entry(muon2.matrices, spectral=True),
    "aurora": Entry(aurora.matrices, scale_free=True, spectral=True),
    "spec_gd": Entry(spec_gd.matrices, spectral=True),
    "polar_grad": Entry(polar_grad.matrices, spectral=True),
    "scion": Entry(scion.matrices, scale_free=True, spectral=True),
    "scion_sign": Entry(
        partial(scion.matrices, lmo="sign"), scale_free=True, signs=True
    ),
    "signum": Entry(signum, scale_free=True, signs=True),
    "lion": Entry(lion, scale_free=True, signs=True),
    "sign_muon": Entry(sign_muon.matrices, scale_free=True, spectral=True),
    "lion_muon": Entry(lion_muon.matrices, scale_free=True, spectral=True),
    "dion": Entry(dion.matrices, scale_free=True, spectral=True),
    "dion2": Entry(dion2.matrices, scale_free=True, spectral=True),
    "shampoo": Entry(shampoo.matrices, scale_free=True, spectral=True),
    "soap": Entry(soap.matrices, spectral=True),
    "soap_muon": Entry(soap_muon.matrices, spectral=True),
    "spec_sign": Entry(
        spec_sign.matrices, scale_free=True, spectral=True, needs=spec_sign_needs
    ),
    "adgd": Entry(adgd, whole_tree=True, needs=_pair_needs),
    "delta_sgd": Entry(delta_sgd, whole_tree=True, needs=_pair_needs),
    "sa_sam": Entry(sa_sam, whole_tree=True, needs=frozenset({"grad_fn"})),
}


def find_entry(name: str) -> Entry:
    """The entry of a catalog name, or of a user's own `package.module:function`.

    What the path leads to may be an `Entry` or a constructor; that of an entry of the
    catalog is this entry.

    >>> find_entry("optax:adam").constructor is optax.adam
    True
    >>> find_entry("jopt:adgd") is CATALOG["adgd"]
    True
    """
    if ":" in name:
        found = import_name("optimizer", name)
        if not callable(found) and not isinstance(found, Entry):
            raise ConfigError(f"optimizer {name!r} is not a function but {found!r}")
        if isinstance(found, Entry):
            return found
        known = (entry for entry in CATALOG.values() if entry.constructor is found)
        return next(known, Entry(found))
    check_choice("optimizer", name, [*CATALOG, "'package.module:function'"])
    return CATALOG[name]


def arguments(entry: Entry) -> tuple[frozenset[str], bool]:
    """The keyword arguments of an entry's constructor, and whether it takes any other.

    >>> names, others = arguments(CATALOG["signum"])
    >>> "weight_decay" in names, others
    (True, False)
    """
    parameters = inspect.signature(entry.constructor).parameters.values()
    by_name = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    return (
        frozenset(p.name for p in parameters if p.kind in by_name),
        any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters),
    )


def default(entry: Entry, argument: str) -> Any:
    """The default of one argument of an entry's constructor, or None without one.

    >>> default(CATALOG["muon"], "scale")
    'match_rms_adamw'
    """
    parameter = inspect.signature(entry.constructor).parameters.get(argument)
    if parameter is None or parameter.default is inspect.Parameter.empty:
        return None
    return parameter.default
