"""MusiCoT: a prompt becomes thoughts, the thoughts audio tokens, and these a waveform."""

from musicot_mlx.pipelines.family import Family

FAMILY = Family(
    model_type="musicot",
    title="MusiCoT",
    parts="musicot_mlx.pipelines.musicot.pipeline:PARTS",
    load="musicot_mlx.pipelines.musicot.pipeline:load",
    options="musicot_mlx.pipelines.musicot.options:MusicotOptions",
    stages={
        "text": "text encoding",
        "plan": "thoughts",
        "tokens": "audio tokens",
        "diffusion": "diffusion",
        "decode": "decode",
    },
    memory="musicot_mlx.pipelines.musicot.memory:needs",
    costs="musicot_mlx.evaluation.speed.cost:of_musicot",
    tasks={
        "semantic_lm": "musicot_mlx.training.musicot:SemanticLMTask",
        "diffusion": "musicot_mlx.training.musicot:DiffusionTask",
    },
    readers=("musicot_mlx.convert.families.musicot:read",),
    reads="what musicot_mlx.reference writes (musicot-pytorch)",
    check="musicot_mlx.convert.check.musicot:comparisons",
    # rounding to 16 bits would change codes, phases or decibels
    exact={
        "rvq": r".*",
        "semantic_tokenizer": r".*codebook.*",
        "diffusion": r"dit\.time_proj\.weight|.*\.frequencies",
        "clap": r".*batch_norm.*",
    },
    capabilities=frozenset({"songs", "plan", "ear", "copies", "to_pytorch"}),
)
