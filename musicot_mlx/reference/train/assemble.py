"""All parts together: the checkpoint folder that `musicot convert` reads."""

from musicot_mlx.reference.musicot import MusicotReference
from musicot_mlx.reference.train.diffusion_stages import diffusion_config
from musicot_mlx.reference.train.token_stages import semantic_lm_config
from musicot_mlx.reference.train.usual_harmony import usual_harmony
from musicot_mlx.reference.train.warm_start import ON_THEIR_OWN
from musicot_mlx.reference.train.wording import wording
from musicot_mlx.reference.train.workspace import Workspace


def assemble(workspace: Workspace) -> None:
    """Write `checkpoint/`: the folder that `musicot convert` reads."""
    if not workspace.process.is_main_process:
        return
    parts = ("clap", "rvq", "semantic_tokenizer", "vae", "sampling")
    config = {part: workspace.config[part] for part in parts}
    config["semantic_lm"] = semantic_lm_config(workspace)
    config["diffusion"] = diffusion_config(workspace)
    config["usual_harmony"] = {"progressions": usual_harmony(workspace.data.entries)}
    config["wording"] = wording(workspace)
    if workspace.start is not None and not (workspace.has("clap") or workspace.has("clap_noise")):
        config["space"] = workspace.start.config.get("space", "clap")  # the same CLAP still
    guided = workspace.has("diffusion_guided")
    if guided:  # its one row is the guided velocity
        config["sampling"] = config["sampling"] | {"diffusion_guidance": 1.0}
    model = MusicotReference(config)
    model.clap = workspace.clap()
    model.rvq = workspace.rvq()
    model.vae = workspace.vae()
    model.semantic_tokenizer = workspace.semantic_tokenizer()
    lm = workspace.weights("semantic_lm", "lm.")
    for stage, option in ON_THEIR_OWN.items():
        if config["semantic_lm"].get(option):
            lm |= {f"{stage}.{key}": value for key, value in workspace.weights(stage).items()}
    model.semantic_lm.load_state_dict(lm)
    stage = "diffusion_guided" if guided else "diffusion"
    model.diffusion.load_state_dict(workspace.weights(stage, "diffusion."))
    model.save_pretrained(workspace.out / "checkpoint", workspace.tokenizer())
    print(f"wrote {workspace.out / 'checkpoint'}", flush=True)
