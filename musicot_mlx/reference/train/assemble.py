"""All parts together: the checkpoint folder that `musicot convert` reads."""

from musicot_mlx.reference.musicot import MusicotReference
from musicot_mlx.reference.train.codes import diffusion_config, semantic_lm_config
from musicot_mlx.reference.train.start import ON_THEIR_OWN
from musicot_mlx.reference.train.studio import Studio
from musicot_mlx.reference.train.usual_harmony import usual_harmony


def assemble(studio: Studio) -> None:
    """Write `checkpoint/`: the folder that `musicot convert` reads."""
    if not studio.process.is_main_process:
        return
    parts = ("clap", "rvq", "semantic_tokenizer", "vae", "sampling")
    config = {part: studio.config[part] for part in parts}
    config["semantic_lm"] = semantic_lm_config(studio)
    config["diffusion"] = diffusion_config(studio)
    config["usual_harmony"] = {"progressions": usual_harmony(studio.data.entries)}
    guided = studio.has("diffusion_guided")
    if guided:  # its one row is the guided velocity
        config["sampling"] = config["sampling"] | {"diffusion_guidance": 1.0}
    model = MusicotReference(config)
    model.clap = studio.clap()
    model.rvq = studio.rvq()
    model.vae = studio.vae()
    model.semantic_tokenizer = studio.semantic_tokenizer()
    lm = studio.weights("semantic_lm", "lm.")
    for stage, option in ON_THEIR_OWN.items():
        if config["semantic_lm"].get(option):
            lm |= {f"{stage}.{key}": value for key, value in studio.weights(stage).items()}
    model.semantic_lm.load_state_dict(lm)
    stage = "diffusion_guided" if guided else "diffusion"
    model.diffusion.load_state_dict(studio.weights(stage, "diffusion."))
    model.save_pretrained(studio.out / "checkpoint", studio.tokenizer())
    print(f"wrote {studio.out / 'checkpoint'}", flush=True)
