"""The instrument tagger that comes with the package, or one from a folder, ready to listen."""

from pathlib import Path

from musicot_mlx import weights
from musicot_mlx.models.tagger import Tagger, TaggerConfig
from musicot_mlx.pipelines.parts import load_network
from musicot_mlx.weights.checkpoint import load_arrays, quantization_of, read_config
from musicot_mlx.weights.config import config_from_dict

EMBEDDED = Path(weights.__file__).parent / "band-tagger"


def load_tagger(folder: str | Path | None = None) -> Tagger:
    """The tagger in a folder, by default the one that comes with the package.

    Its folder is one network: sizes stand in config.json itself and names have no prefix. Raises
    MusicotError where the folder holds no tagger.
    """
    folder = EMBEDDED if folder is None else Path(folder)
    config = read_config(folder, model_types=("tagger",))
    sizes = {key: value for key, value in config.items() if key != "model_type"}
    network = Tagger(config_from_dict(TaggerConfig, sizes, where=str(folder)))
    arrays = load_arrays(folder, lazy=True)
    quantization = quantization_of(config, "tagger")
    return load_network(network, quantization, arrays, folder=folder, where="tagger")
