"""MuMu-LLaMA: answers about songs, pictures and films, and captions that MusicGen plays."""

from musicot_mlx.pipelines.family import Family

FAMILY = Family(
    model_type="mumu_llama",
    title="MuMu-LLaMA",
    parts="musicot_mlx.pipelines.mumu_llama.pipeline:PARTS",
    load="musicot_mlx.pipelines.mumu_llama.pipeline:load",
    options="musicot_mlx.pipelines.mumu_llama.options:MumuOptions",
    stages={
        "media": "listening and looking",
        "answer": "answer",
        "text": "text encoding",
        "tokens": "audio tokens",
        "decode": "decode",
    },
    memory="musicot_mlx.pipelines.mumu_llama.memory:needs",
    tasks={
        "captions": "musicot_mlx.training.mumu_llama:CaptionsTask",
        "music": "musicot_mlx.training.mumu_llama:MusicTask",
        "answers": "musicot_mlx.training.mumu_llama:AnswersTask",
    },
    readers=("musicot_mlx.convert.families.mumu_llama:read",),
    reads="checkpoint.pth of MuMu-LLaMA and M2UGen",
    check="musicot_mlx.convert.check.mumu_llama:comparisons",
    quantised=("llama", "words", "bridges", "text_encoder", "decoder"),
    embeddings=("words",),
    least_bits={"words": 8, "bridges": 8},
    # what decides, or is summed over many parts
    exact={
        "llama": r"gates|queries|value_lora\..*|.*layernorm\.weight",
        "words": r"norm\.weight",
        "bridges": r".*\.pool\..*|.*\.norm\.weight|audio_time\..*",
        "codec": r"quantizer\..*",
    },
    wide=("text_encoder",),  # T5 was trained in bfloat16
    capabilities=frozenset({"songs", "answers"}),
)
