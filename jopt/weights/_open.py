"""Which format a path is."""

from __future__ import annotations

from pathlib import Path

from jopt.errors import ConfigError
from jopt.weights._orbax import find_checkpoint, open_orbax
from jopt.weights._safetensors import INDEX, SINGLE, open_safetensors
from jopt.weights._weights import Weights


def open_weights(path: Path | str) -> Weights:
    """Opens parameters for reading; only names, shapes and types are read yet.

    Args:
        path: a `.safetensors` file; a `.safetensors.index.json`, or the folder that
            holds one, for sharded files; a run's folder, its `checkpoints`, or one step
            in it (manifests are checked); or a folder that Orbax wrote.

    Fails: `ConfigError` when there is nothing of that kind; `DamagedCheckpointError`
    when a file is not whole.

    >>> import tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_file({"w": np.ones(2)}, f"{folder}/m.safetensors")
    ...     weights = open_weights(f"{folder}/m.safetensors")
    ...     weights.leaves["w"], weights.read("w").tolist()
    ...     weights.close()
    (Leaf(shape=(2,), dtype=dtype('float64')), [1.0, 1.0])
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path} does not exist; parameters are expected there")
    if path.is_file() and path.name.endswith((SINGLE, INDEX)):
        return open_safetensors(path)
    if path.is_dir():
        if found := sorted(path.glob(f"*{INDEX}")):
            return open_safetensors(found[0], path)
        if (folder := find_checkpoint(path)) is not None:
            return open_orbax(folder, path)
        if single := sorted(path.glob(f"*{SINGLE}")):
            listed = ", ".join(file.name for file in single[:5])
            raise ConfigError(f"{path} holds {listed} and no index; name one of them")
    raise ConfigError(
        f"{path} holds no parameters; expected is a .safetensors file, a folder with a "
        f"model{INDEX}, a run's folder, or an Orbax checkpoint"
    )
