"""MusicGen: a prompt becomes EnCodec codes, and these a waveform."""

from musicot_mlx.pipelines.family import Family

FAMILY = Family(
    model_type="musicgen",
    title="MusicGen",
    parts="musicot_mlx.pipelines.musicgen.pipeline:PARTS",
    load="musicot_mlx.pipelines.musicgen.pipeline:load",
    options="musicot_mlx.pipelines.musicgen.options:MusicgenOptions",
    stages={"text": "text encoding", "tokens": "audio tokens", "decode": "decode"},
    memory="musicot_mlx.pipelines.musicgen.memory:needs",
    costs="musicot_mlx.evaluation.speed.cost:of_musicgen",
    tasks={"decoder": "musicot_mlx.training.musicgen:DecoderTask"},
    readers=("musicot_mlx.convert.families.musicgen:read",),
    reads="MusicGen of transformers or audiocraft",
    check="musicot_mlx.convert.check.musicgen:comparisons",
    quantised=("text_encoder", "decoder"),
    embeddings=False,
    exact={"codec": r"quantizer\..*"},  # codebooks decide codes
    wide=("text_encoder",),  # T5 was trained in bfloat16
    capabilities=frozenset({"songs", "batch"}),
)
