"""Magenta RealTime 2: thoughts of ten seconds become frames of codes, and these a waveform."""

from musicot_mlx.pipelines.family import Family

FAMILY = Family(
    model_type="magenta_rt2",
    title="Magenta RealTime 2",
    parts="musicot_mlx.pipelines.magenta_rt2.pipeline:PARTS",
    load="musicot_mlx.pipelines.magenta_rt2.pipeline:load",
    options="musicot_mlx.pipelines.magenta_rt2.options:MagentaOptions",
    stages={
        "text": "text encoding",
        "plan": "thoughts",
        "tokens": "audio tokens",
        "decode": "decode",
    },
    memory="musicot_mlx.pipelines.magenta_rt2.memory:needs",
    costs="musicot_mlx.evaluation.speed.cost:of_magenta_rt2",
    tasks={"lm": "musicot_mlx.training.magenta_rt2:DepthformerTask"},
    readers=("musicot_mlx.convert.families.magenta_rt2:read",),
    reads="Magenta RealTime 2",
    quantised=("lm",),
    embeddings=False,
    exact={
        "musiccoca": r"mel\..*",  # spectra are float32
        "rvq": r".*",  # a code is a decision
        # a code is drawn from what these say, and bfloat16 would round a style's code
        "lm": r"conditioner\.style\.weight|.*norm\.(weight|bias)|.*\.scale",
        "codec": r".*",  # in float16 it overflows
    },
    wide=("lm",),
    capabilities=frozenset({"songs", "plan", "ear", "live"}),
)
