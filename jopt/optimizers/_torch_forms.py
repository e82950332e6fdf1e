"""SGD, RMSprop and Adam as PyTorch writes them, for studies that are about its forms.

Weight decay is coupled, an L2 term in the gradient before any average; the eps of
RMSprop stands outside the root; momentum has no dampening.
"""

from __future__ import annotations

import optax

from jopt.optimizers._chain import keep_dtype


def torch_sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """`torch.optim.SGD`: D = G + decay W, B <- momentum B + D, W <- W - lr B.

    With `nesterov` the step is lr (D + momentum B).

    Args:
        learning_rate: a number, traced or not, or a schedule.
        momentum, weight_decay: may be traced; decay also a schedule.
        nesterov: static.

    State: B, as the parameters.
    References: the optimizers of Naganuma et al., 2023, arXiv 2211.08583, where
    `momentum` is 0 or 0.9.

    >>> import jax.numpy as jnp
    >>> tx, w = torch_sgd(0.5, weight_decay=0.1), jnp.array([2.0])
    >>> tx.update(jnp.array([1.0]), tx.init(w), w)[0].tolist()
    [-0.6000000238418579]
    """
    return _coupled(
        optax.trace(momentum, nesterov=nesterov), learning_rate, weight_decay
    )


def torch_rmsprop(
    learning_rate: optax.ScalarOrSchedule,
    *,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """`torch.optim.RMSprop`: W <- W - lr B with D = G + decay W and

        V <- alpha V + (1 - alpha) D^2,   B <- momentum B + D / (sqrt(V) + eps).

    `optax.rmsprop` has other defaults, decay 0.9 and
    eps inside the root, which make another optimizer.

    Args:
        learning_rate: a number, traced or not, or a schedule.
        alpha, eps, momentum, weight_decay: may be traced; decay also a schedule.

    State: V and B, as the parameters. Reference: `torch_sgd`.

    >>> import jax.numpy as jnp
    >>> tx, w = torch_rmsprop(0.5, alpha=0.75, eps=0.5), jnp.array([2.0])
    >>> tx.update(jnp.array([1.0]), tx.init(w), w)[0].tolist()  # 1 / (.5 + .5) = 1
    [-0.5]
    """
    direction = optax.chain(
        optax.scale_by_rms(alpha, eps, initial_scale=0.0, eps_in_sqrt=False),
        optax.trace(momentum),
    )
    return _coupled(direction, learning_rate, weight_decay)


def torch_adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """`torch.optim.Adam`: Adam on D = G + decay W. `adamw` has the decoupled decay.

    Args:
        learning_rate: a number, traced or not, or a schedule.
        b1, b2, eps, weight_decay: may be traced; decay also a schedule.

    State: two averages, as the parameters. Reference: `torch_sgd`.

    >>> import jax.numpy as jnp
    >>> tx, w = torch_adam(0.5, weight_decay=1.0), jnp.array([2.0])
    >>> tx.update(jnp.array([-1.0]), tx.init(w), w)[0].round(4).tolist()
    [-0.5]
    """
    direction = optax.scale_by_adam(b1, b2, eps, eps_root=0.0)
    return _coupled(direction, learning_rate, weight_decay)


def _coupled(
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule,
) -> optax.GradientTransformationExtraArgs:
    return keep_dtype(
        optax.chain(
            optax.add_decayed_weights(weight_decay),
            direction,
            optax.scale_by_learning_rate(learning_rate),
        )
    )
