"""Wishes that have an answer under another name: words people try, and where to find it."""

GENERATE = 'musicot generate "relaxing piano" makes a song'
COMMANDS = {
    **dict.fromkeys(
        "create make gen compose song sing run new render text2music".split(), GENERATE
    ),
    **dict.fromkeys(
        "chat prompt interactive repl".split(),
        f"musicot holds no conversation: {GENERATE}, and musicot plan --plan changes its plan",
    ),
    **dict.fromkeys(
        "web ui gui app webui gradio page browser".split(),
        "musicot studio opens a page, and musicot serve is its API alone",
    ),
    **dict.fromkeys(
        "server api http daemon".split(), "musicot serve is an HTTP API, musicot studio its page"
    ),
    **dict.fromkeys(
        "play listen hear".split(), "musicot generate --play makes a song and plays it"
    ),
    **dict.fromkeys(("stream",), "musicot generate --stream writes a song while it is being made"),
    **dict.fromkeys(
        "list ls pull download install remove delete rm cache".split(),
        "musicot models lists models and deletes them; --model NAME fetches one",
    ),
    **dict.fromkeys(
        "styles instruments genres moods words help-prompt voices".split(),
        "musicot tags lists what a model plays",
    ),
    **dict.fromkeys(
        "train finetune fine-tune tune learn dreambooth".split(), "musicot lora tunes a model"
    ),
    **dict.fromkeys(
        "edit change remix morph extend continue".split(),
        'musicot plan --plan song.json --set "10-20=solo piano" changes the plan of a song',
    ),
    **dict.fromkeys(
        "find search similar catalog catalogue index collection".split(),
        'musicot library search "dark slow strings" finds songs by how they sound',
    ),
    **dict.fromkeys("merge export".split(), "musicot fuse joins adapters and model"),
    **dict.fromkeys("quantize quantise".split(), "musicot convert -q quantises a model"),
    **dict.fromkeys("version about info".split(), "musicot --version, and musicot doctor"),
    **dict.fromkeys("benchmark speed".split(), "musicot bench"),
    **dict.fromkeys("evaluate score measure test".split(), "musicot eval"),
    **dict.fromkeys("check diagnose".split(), "musicot doctor"),
    **dict.fromkeys(
        "transcribe chords detect".split(), "musicot analyze hears key, tempo and chords"
    ),
}
FLAGS = {
    **dict.fromkeys(
        ("--temp", "--temperature-thoughts", "--randomness", "--creativity"),
        "there are two temperatures, --thought-temp and --audio-temp",
    ),
    **dict.fromkeys(
        ("--genre", "--style", "--mood", "--instrument", "--instruments", "--energy", "--vibe"),
        "say it in the prompt; musicot tags lists what a model knows",
    ),
    **dict.fromkeys(
        ("--length", "--time", "--secs", "--len", "--minutes", "-d", "-t", "-l"),
        "the length is --duration, in seconds",
    ),
    **dict.fromkeys(
        ("--lyrics", "--vocals", "--voice", "--singer"),
        "lyrics are a text file: --lyrics-file FILE; musicot-mini doesn't sing",
    ),
    **dict.fromkeys(
        ("--negative", "--exclude", "--without", "--no"),
        'say it in the prompt ("techno, no drums"); with MusicGen it is --negative-prompt',
    ),
    **dict.fromkeys(
        ("--out", "--output-file", "--save", "--file", "--output-dir", "--outdir", "-f"),
        "the file is -o, --output",
    ),
    **dict.fromkeys(
        ("--cfg", "--cfg-scale", "--guidance-scale", "--scale"),
        "there are --thought-guidance, --audio-guidance and --diffusion-guidance",
    ),
    **dict.fromkeys(
        ("--num", "-n", "--count", "--number", "--n", "--batch", "--batch-size", "--variations"),
        "several songs are several seeds, --seed 1 2 3; the best of several is --candidates",
    ),
    **dict.fromkeys(
        ("--device", "--gpu", "--cuda", "--cpu", "--mps"),
        "MLX takes the GPU where there is one; musicot doctor tells what is here",
    ),
    **dict.fromkeys(
        ("--port", "--host", "--share"), "these are of musicot studio and musicot serve"
    ),
    **dict.fromkeys(("--quality", "--num-steps", "--inference-steps"), "more --steps are finer"),
    **dict.fromkeys(
        ("--text", "--input", "--description", "--caption"), "the prompt is written by itself or -p"
    ),
    **dict.fromkeys(("--checkpoint", "--weights", "-m"), "the model is --model"),
    **dict.fromkeys(("--audio", "--audio-prompt"), "audio to borrow from is --reference"),
    **dict.fromkeys(("--chord", "--progression"), "the chords are --chords"),
    **dict.fromkeys(("--bars", "--metre", "--meter", "--time-signature"),
                    "bars have four beats; --bpm and --duration say how many there are"),
    **dict.fromkeys(("--scale-mode", "--tonality"), "the key is --key"),
    **dict.fromkeys(("--debug", "--verbose", "-v"), "MUSICOT_DEBUG=1 shows where errors are"),
    **dict.fromkeys(("--quiet", "-q"), "progress goes to stderr: 2> /dev/null"),
}  # fmt: skip
