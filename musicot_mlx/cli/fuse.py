"""musicot fuse: fuse adapters into a model, with mlx-lm's flags."""

from dataclasses import dataclass
from typing import Literal

from musicot_mlx.cli import flags


@dataclass(kw_only=True)
class Arguments(flags.Writing):
    """The flags of musicot fuse."""

    model: str | None = flags.flag(
        "NAME", "embedded name, folder or Hub id (default: musicot-mini)"
    )
    adapter_path: list[str] = flags.flag(
        "FOLDER...",
        "adapters from musicot lora; FOLDER:0.5 counts half (default: adapters)",
        default=["adapters"],
    )
    save_path: str = flags.flag(
        "FOLDER",
        "folder to write (default: fused_model)",
        check=flags.folder,
        default="fused_model",
    )
    dequantize: bool = flags.flag("", "write every layer unquantised", default=False)
    dtype: Literal["float16", "bfloat16", "float32"] | None = flags.flag(
        "", "type of what is not quantised (default: as the model has it)"
    )


def run(args: Arguments) -> int:
    import musicot_mlx as mc
    from musicot_mlx.training.fuse import fuse

    fused = fuse(
        args.model or "musicot-mini",
        args.adapter_path,
        args.save_path,
        load=mc.load,
        dequantize=args.dequantize,
        dtype=args.dtype,
    )
    print(fused)
    return 0
