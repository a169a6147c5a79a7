"""laion_clap's own .pt files, read for conversion.

music_audioset_epoch_15_esc_90.14.pt (HTSAT-base), 630k-audioset-best.pt (HTSAT-tiny) and their like
are training checkpoints: {"epoch", "name", "state_dict", ...} with an optimiser twice as large as
the model beside it, keys with `module.` in front. A bare state dict is read as well. The files hold
no config and no tokenizer: sizes are inferred from shapes, the tokenizer is roberta-base's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from musicot_mlx.convert.families import Checkpoint
from musicot_mlx.convert.families.clap import checkpoint
from musicot_mlx.convert.keymaps import clap as keymap
from musicot_mlx.convert.pickles import lazy_arrays, pickled_state
from musicot_mlx.convert.roberta import roberta_tokenizer
from musicot_mlx.convert.rules import apply_rules


def read(
    source: Path,
    config: Mapping[str, Any],
    scratch: Path,
    *,
    tokenizer: str | Path | None = None,
    **_: Any,
) -> Checkpoint | None:
    """The checkpoint of a .pt file of laion_clap, or of a folder that holds one and no config.json.

    tokenizer: RoBERTa's tokenizer.json or a folder with it; None looks beside the file, then on the
    Hub. Raises MusicotError for fusion files, other text or audio towers, a missing tokenizer.
    """
    state = None if config else pickled_state(source)
    if state is None:
        return None
    if not any(key.startswith("audio_branch.") for key in state):
        return None
    section = keymap.laion_config({key: tuple(value.shape) for key, value in state.items()})
    # numpy has no bfloat16
    filters = mx.array(state["audio_branch.logmel_extractor.melW"]).astype(mx.float32)
    keymap.check_laion_filters(section, filters)
    where = source if source.is_dir() else source.parent
    text = roberta_tokenizer(where, section, tokenizer)  # before anything long begins
    arrays = lazy_arrays(keymap.used(keymap.LAION_RULES, state), scratch)
    return checkpoint(section, apply_rules(keymap.LAION_RULES, arrays, where="clap"), text)
