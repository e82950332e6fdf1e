"""Reading values out of a config, whichever kind it is."""

from __future__ import annotations

from typing import Any


def read(config: Any, path: str, default: Any = None) -> Any:
    """The value at a dotted path; `default` where it is absent or None.

    Works on mappings, `ml_collections.ConfigDict` and objects with attributes. A
    placeholder reads as None and so as absent.

    >>> read({"train": {"steps": 3}}, "train.steps"), read({}, "train.steps", 1)
    (3, 1)
    """
    for key in path.split("."):
        if config is None:
            return default
        if hasattr(config, "items"):
            config = dict(config.items()).get(key)
        else:
            config = getattr(config, key, None)
    return default if config is None else config


def entries(config: Any) -> dict[str, Any]:
    """The keys and values of one level, without those that are None.

    >>> entries({"a": 1, "b": None})
    {'a': 1}
    """
    if config is None:
        return {}
    pairs = config.items() if hasattr(config, "items") else vars(config).items()
    return {str(key): value for key, value in pairs if value is not None}
