"""Models: pure functions over nested dicts, whatever module system is behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jopt.errors import check_choice
from jopt.models._cnn import CnnConfig as CnnConfig
from jopt.models._cnn import cnn as cnn
from jopt.models._generate import generate as generate
from jopt.models._gpt_neo import GPT_NEOS as GPT_NEOS
from jopt.models._gpt_neo import GptNeoConfig as GptNeoConfig
from jopt.models._gpt_neo import gpt_neo as gpt_neo
from jopt.models._linen import linen_model as linen_model
from jopt.models._mlp import MlpConfig as MlpConfig
from jopt.models._mlp import mlp as mlp
from jopt.models._model import Model as Model
from jopt.models._nnx import nnx_model as nnx_model
from jopt.models._resnet import RESNETS as RESNETS
from jopt.models._resnet import ResnetConfig as ResnetConfig
from jopt.models._resnet import resnet as resnet
from jopt.models._taps import Taps as Taps
from jopt.models._taps import activation_gram as activation_gram
from jopt.models._text_encoder import TEXT_ENCODERS as TEXT_ENCODERS
from jopt.models._text_encoder import TextEncoderConfig as TextEncoderConfig
from jopt.models._text_encoder import text_encoder as text_encoder
from jopt.models._transformer import transformer_lm as transformer_lm
from jopt.models._transformer_config import SIZES as SIZES
from jopt.models._transformer_config import TransformerConfig as TransformerConfig
from jopt.models._transformer_config import default_config as default_config
from jopt.models._vgg import VggConfig as VggConfig
from jopt.models._vgg import vgg as vgg
from jopt.models._vit import VITS as VITS
from jopt.models._vit import VitConfig as VitConfig
from jopt.models._vit import vit as vit

__all__ = [
    "CATALOG",
    "GPT_NEOS",
    "RESNETS",
    "SIZES",
    "TEXT_ENCODERS",
    "VITS",
    "CnnConfig",
    "GptNeoConfig",
    "MlpConfig",
    "Model",
    "ResnetConfig",
    "Taps",
    "TextEncoderConfig",
    "TransformerConfig",
    "VggConfig",
    "VitConfig",
    "activation_gram",
    "build",
    "cnn",
    "default_config",
    "generate",
    "gpt_neo",
    "linen_model",
    "mlp",
    "nnx_model",
    "resnet",
    "text_encoder",
    "transformer_lm",
    "vgg",
    "vit",
]

CATALOG = {
    "mlp": mlp,
    "cnn": cnn,
    "resnet": resnet,
    "vgg": vgg,
    "vit": vit,
    "text_encoder": text_encoder,
    "transformer_lm": transformer_lm,
    "gpt_neo": gpt_neo,
}


def build(config: Any) -> Model:
    """The model that `config.name` selects from `CATALOG`, built from the same config.

    >>> from ml_collections import ConfigDict
    >>> build(ConfigDict(default_config("micro"))).vocab_size
    256
    """
    is_mapping = isinstance(config, Mapping)
    name = config.get("name") if is_mapping else getattr(config, "name", None)
    check_choice("model.name", name, CATALOG)
    return CATALOG[str(name)](config)
