"""The parts of mlx-lm the networks stand on, without the rest of mlx-lm.

`mlx_lm/__init__.py` imports its tokenizer and converter, and so transformers, which imports torch
wherever torch is installed: seconds of start-up, and a song that fails when torch is broken. The
models, caches and samplers need none of it. So the package object is put in place here with its
`__init__` held back; it runs, once and unchanged, when someone asks `mlx_lm` for a name that only
it can give (`from mlx_lm import load`).
"""

import importlib
import importlib.util
import sys
from types import ModuleType


class _Deferred(ModuleType):
    """A package whose `__init__` has not run yet; importing its submodules does not run it."""

    def __getattr__(self, name: str) -> object:
        # The import system and inspect probe for dunders; only these two are worth the wait.
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self.__class__ = ModuleType
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _defer(name: str) -> None:
    """Put the package in place with its `__init__` held back, unless it is imported already."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}; pip install mlx-lm", name=name)
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _Deferred
    sys.modules[name] = package


_defer("mlx_lm")
_defer("mlx_lm.tuner")

_base = importlib.import_module("mlx_lm.models.base")
_cache = importlib.import_module("mlx_lm.models.cache")
_llama = importlib.import_module("mlx_lm.models.llama")
_sample_utils = importlib.import_module("mlx_lm.sample_utils")
_lora = importlib.import_module("mlx_lm.tuner.lora")
_dora = importlib.import_module("mlx_lm.tuner.dora")

KVCache = _cache.KVCache
BatchKVCache = _cache.BatchKVCache
LlamaModel = _llama.LlamaModel
LlamaArgs = _llama.ModelArgs
LlamaBlock = _llama.TransformerBlock
attention_mask = _base.create_attention_mask
apply_top_k = _sample_utils.apply_top_k
apply_top_p = _sample_utils.apply_top_p
LoRALinear = _lora.LoRALinear
LoRAEmbedding = _lora.LoRAEmbedding
DoRALinear = _dora.DoRALinear
DoRAEmbedding = _dora.DoRAEmbedding


def reporting_callbacks(report_to: str, **options: object) -> object:
    """mlx-lm's TrainingCallback for wandb or swanlab. Raises ImportError where it is missing."""
    callbacks = importlib.import_module("mlx_lm.tuner.callbacks")
    return callbacks.get_reporting_callbacks(report_to, **options)
