"""The page of results: tables and small spectrograms, written from the figures of `musicot eval`.

A figure is shown with its 95 % interval, the number it is of, and what was hoped for, met or not.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image  # which matplotlib brings

from musicot_mlx.atomic import atomic_path
from musicot_mlx.audio.signals import mel_decibels, power_spectrogram
from musicot_mlx.evaluation.harness.renders import BARE, BASE, CAPTIONS, WORDINGS
from musicot_mlx.evaluation.harness.scores import NEAR, PAPER_FAD

BANDS, COLUMNS, DYNAMIC_RANGE = 96, 420, 72.0  # of a small spectrogram; dB
SHADES = 32  # a palette keeps a picture under 25 kB
LABELS = {
    WORDINGS: "whole method",
    CAPTIONS: "captions of held-out songs",
    BARE: "chain of thoughts left out when sampling",
    BASE: "trained without thoughts",
}


def spectrogram(waveform: np.ndarray, sample_rate: int, path: str | Path) -> None:
    """A mel spectrogram of (samples,) or (samples, channels) as a small PNG, 30 Hz at the foot."""
    image = mel_decibels(power_spectrogram(waveform, sample_rate), BANDS, DYNAMIC_RANGE)
    edges = np.linspace(0, len(image), min(COLUMNS, len(image)) + 1).astype(int)
    pooled = np.maximum.reduceat(image, edges[:-1], axis=0)  # (columns, bands)
    level = (pooled.T[::-1] + DYNAMIC_RANGE) / DYNAMIC_RANGE  # 0-1, low frequencies at the foot
    picture = Image.fromarray(np.rint(level * (SHADES - 1)).astype(np.uint8))
    colours = matplotlib.colormaps["magma"](np.linspace(0, 1, SHADES))[:, :3]
    picture.putpalette(np.rint(colours * 255).astype(np.uint8).tobytes())
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG", optimize=True)


def page(figures: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The Markdown of the page; pictures: caption -> path relative to the page."""
    parts = [
        "# Results",
        f"Written by `{figures['command']}` from the figures in `{figures['figures']}`; run it "
        "again to write it anew. In brackets stand 95 % intervals: songs drawn again, with "
        "replacement.",
        _recipe(figures),
        "## At a glance",
        _goals(figures),
        *(("## Against an earlier version", _earlier(figures)) if figures.get("earlier") else ()),
        "## Quality",
        _quality(figures),
        "## Instruments and tempo",
        _instruments(figures),
        "## Harmony",
        _harmony(figures),
        "## Structure",
        _structure(figures),
        "## Variety",
        _variety(figures),
        "## Codec",
        _codec(figures),
        "## What the parts of the method are worth",
        _ablations(figures),
        "## How each figure is measured",
        _methods(figures),
    ]
    if pictures:
        parts += ["## Spectrograms", "30 Hz at the foot, 16 kHz on top, even on the mel scale."]
        parts += [f"{caption}\n\n![{caption}]({path})" for caption, path in pictures.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _recipe(figures: Mapping[str, Any]) -> str:
    settings = figures["settings"]
    return (
        f"Model `{figures['model']}` ({figures['fingerprint']}), musicot-mlx {figures['version']}, "
        f"{figures['machine']}. {settings['prompts']} prompts of {settings['duration']:g} s, "
        f"{settings['takes']} renders in all, {settings['rendered']} of them in this run of "
        f"{figures['minutes']:.1f} minutes."
    )


def _goals(figures: Mapping[str, Any]) -> str:
    """What was hoped for, and whether it came true."""
    groups, codec = figures["groups"], figures.get("codec") or {}
    main = groups[WORDINGS]
    structure = figures.get("structure") or {}
    above = [
        name
        for name, row in structure.items()
        if name != "synth" and row["clap"] and row["clap"]["value"] > 0.5
    ]
    rows: list[tuple[str, str, str, bool | None]] = []

    def add(what: str, value: Any, hoped: str, met: Callable[[float], bool]) -> None:
        if value is not None:
            rows.append((what, _shown(value), hoped, met(value["value"])))

    add("codec: log-mel error", codec.get("log_mel_error"), "at most 0.40", lambda x: x <= 0.40)
    add("codec: SNR, dB, median", codec.get("snr"), "at least 14", lambda x: x >= 14)
    if codec.get("fad") and main.get("fad"):
        whole = main["fad"]["value"]
        lost = codec["fad_of_originals"] / whole
        rows.append(("codec: FAD from the songs it was sent, as a share of the generator's",
                     f"{lost:.2f}", "under 0.5", lost < 0.5))  # fmt: skip
        share, least = (of["fad"]["value"] / whole for of in (codec, figures["real"]))
        rows.append(("codec: FAD from other songs, as a share of the generator's",
                     f"{share:.2f} (the songs it was sent: {least:.2f})", "under 0.5",
                     share < 0.5))  # fmt: skip
    add("instruments, mean AUC", main.get("instrument_auc"), "at least 0.85", lambda x: x >= 0.85)
    add("tempo as asked", main.get("tempo_within"), "at least 0.70", lambda x: x >= 0.70)
    add("share in key", main.get("share_in_key"), "at least 0.85", lambda x: x >= 0.85)
    real_chords = (figures.get("real") or {}).get("chords_heard")
    if real_chords:
        least = 0.8 * real_chords["value"]
        add("chords asked for that are heard", main.get("chords_heard"),
            f"at least {least:.2f}, 0.8 of real songs", lambda x: x >= least)  # fmt: skip
    if structure:
        rows.append(("structure: anchors with r above 0.5, of drums, bass, piano, guitar, strings",
                     f"{len(above)} ({', '.join(above) or 'none'})", "3 or more",
                     len(above) >= 3))  # fmt: skip
    if figures.get("diversity"):
        add("variety: seeds against real songs", figures["diversity"]["ratio"], "at least 0.5",
            lambda x: x >= 0.5)  # fmt: skip
    if figures.get("size_mb"):
        rows.append(("shipped size, MB", f"{figures['size_mb']:.1f}", "at most 40",
                     figures["size_mb"] <= 40))  # fmt: skip
    base = (figures.get("ablations") or {}).get(BASE)
    if base and base.get("fad_added"):
        added = base["fad_added"]
        rows.append(("FAD that training without thoughts adds", _shown(added),
                     "above 0, and its interval", added["low"] > 0))  # fmt: skip
    text = _table(
        ("what", "measured", "hoped for", "met"),
        [(*row[:3], "yes" if row[3] else "**no**") for row in rows],
    )
    if base:
        text += (
            "\n\nThe model without thoughts that the paper's main claim asks for: "
            "[training.md](training.md#without-thoughts) says how far it was trained, beside which."
        )
    else:
        text += (
            "\n\nThe paper's main claim, better music with thoughts than without at the same "
            "budget of training, is **not tested here**: that takes a second model, trained by "
            "`configs/no-thoughts.yaml` and passed as `--without-thoughts`."
        )
        if figures.get("ablations"):
            text += (
                " What is shown below leaves the chain out of sampling only, which a model that "
                "has always seen it is not made for."
            )
    return text


def headline(figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any] | None, bool]]:
    """The figures by which versions are compared: name, interval, whether more is better."""
    main, codec = figures["groups"][WORDINGS], figures.get("codec") or {}
    correlations = [
        row["clap"]["value"] for row in (figures.get("structure") or {}).values() if row["clap"]
    ]
    mean = {"value": float(np.mean(correlations))} if correlations else None
    return [
        ("FAD", main.get("fad"), False),
        ("CLAP score", main.get("clap_score"), True),
        ("instruments, mean AUC", main.get("instrument_auc"), True),
        ("tempo as asked", main.get("tempo_within"), True),
        ("share in key", main.get("share_in_key"), True),
        ("chords heard", main.get("chords_heard"), True),
        ("structure, mean r", mean, True),
        ("seeds against real songs", (figures.get("diversity") or {}).get("ratio"), True),
        ("codec: SNR, dB", codec.get("snr"), True),
        ("codec: log-mel error", codec.get("log_mel_error"), False),
        ("codec: comb, dB", codec.get("comb"), False),
        ("codec: clicks a second", codec.get("clicks"), False),
    ]


def _earlier(figures: Mapping[str, Any]) -> str:
    """This model beside the one whose figures were passed."""
    before = figures["earlier"]
    rows = []
    for (name, new, more), (_, old, _) in zip(headline(figures), headline(before), strict=True):
        if new and old:
            better = (new["value"] > old["value"]) == more and new["value"] != old["value"]
            rows.append((name, _shown(old), _shown(new), "yes" if better else "no"))
    text = _table(("what", f"{before['fingerprint']}", f"{figures['fingerprint']}", "better"), rows)
    other = {
        key: (before["settings"].get(key), figures["settings"].get(key))
        for key in ("prompts", "duration", "clap")
        if before["settings"].get(key) != figures["settings"].get(key)
    }
    if other:
        text += (
            "\n\nThe two were not measured alike: "
            + ", ".join(f"{key} {old} and {new}" for key, (old, new) in other.items())
            + ". FAD and CLAP scores compare within one CLAP only."
        )
    return text


def _quality(figures: Mapping[str, Any]) -> str:
    rows = []
    if figures.get("real"):
        rows.append(("real songs, held out", *_fads(figures["real"]), "-"))
    if figures.get("codec"):
        rows.append(("the same through the codec", *_fads(figures["codec"]), "-"))
    for name, group in figures["groups"].items():
        label = "prompts in held-out wordings" if name == WORDINGS else LABELS[name]
        rows.append((label, *_fads(group), _shown(group["clap_score"])))
    text = _table(("what", "windows", "FAD", "FAD-infinity", "CLAP score"), rows)
    if figures.get("reference_windows"):
        text += (
            f"\n\nFAD is against {figures['reference_windows']} windows of 10 s of songs that the "
            "model could learn from, in the model's own CLAP space, and is comparable within this "
            "page only."
        )
    else:
        text += "\n\nNo FAD: it needs `--reference-dir`."
    return text


def _harmony(figures: Mapping[str, Any]) -> str:
    rows = [
        (label, _shown(group.get("share_in_key")), _shown(group.get("chords_heard")))
        for label, group in (
            ("real songs, held out", figures.get("real")),
            ("the same through the codec", figures.get("codec")),
            ("generated", figures["groups"][WORDINGS]),
        )
        if group and group.get("share_in_key")
    ]
    text = _table(("what", "share in key", "chords of their bars heard"), rows)
    return (
        f"{text}\n\nShare in key: of the spectral peaks from 110 Hz to 1.8 kHz, how many lie on "
        "the seven notes of the best major or minor scale. Chords: a reader by signal processing "
        "alone (`audio/harmony.py`) hears the root and the triad of each bar; what it gets right "
        "in real songs, whose score is known, is what it allows."
    )


def _fads(group: Mapping[str, Any]) -> tuple[str, str, str]:
    far = group.get("fad_infinity")
    return (
        str(group["windows"]),
        _shown(group.get("fad")),
        f"{far['value']:.3f} (R2 {far['r2']:.2f})" if far and far["value"] is not None else "-",
    )


def _instruments(figures: Mapping[str, Any]) -> str:
    main = figures["groups"][WORDINGS]
    text = ""
    areas, held_out = main.get("auc_by_label"), figures.get("tagger_held_out") or {}
    if areas:
        rows = [
            (name, _number(held_out.get(f"auc_{name}")), _number(value))
            for name, value in areas.items()
        ]
        rows.append(("**mean**", _number(held_out.get("auc")), _shown(main["instrument_auc"])))
        text = (
            "Area under the ROC curve of an independent tagger: on real held-out songs, whose "
            "score says who plays, and on generated ones, asked against not asked.\n\n"
        ) + _table(("family", "real songs", "generated"), rows)
    rows = []
    for name, group in figures["groups"].items():
        if group["tempo_within"]:
            rows.append((LABELS[name] if name != WORDINGS else "generated, tempo named",
                         group["tempo_within"]["n"], _shown(group["tempo_within"])))  # fmt: skip
    if (figures.get("real") or {}).get("tempo_within"):
        within = figures["real"]["tempo_within"]
        rows.insert(0, ("real songs, held out: what the measure itself allows", within["n"],
                        _shown(within)))  # fmt: skip
        rows.append(("real songs against the tempi of others: what chance gives", within["n"],
                     _number(figures["real"].get("tempo_by_chance"))))  # fmt: skip
    if rows:
        head = f"share within {100 * NEAR:.0f} % of the tempo, its double or its half"
        text += "\n\n" + _table(("what", "songs", head), rows)
    lines = []
    if figures.get("divergence") is not None:
        lines.append(f"of all windows {figures['divergence']:.3f}")
    if figures.get("caption_divergence"):
        lines.append(f"caption by caption {_shown(figures['caption_divergence'])}")
    if lines:
        text += (
            "\n\nKullback-Leibler divergence of what the tagger hears, real from generated, in "
            f"nats: {'; '.join(lines)}."
        )
    return text or "Not measured: no tagger."


def _structure(figures: Mapping[str, Any]) -> str:
    rows = [
        (name, _shown(row["clap"]), _shown(row["tagger"]), _number(row["paper"]))
        for name, row in (figures.get("structure") or {}).items()
    ]
    if not rows:
        return "Not measured: this model has no plan."
    return (
        "Pearson's r, over all segments of 10 s, of what the plan holds with what the render "
        "holds. The paper's column is thoughts of real songs against stems, another question of "
        "the same kind; `benchmarks/agreement.py` asks it.\n\n"
    ) + _table(("anchor", "in CLAP's space", "by the tagger", "paper, stems"), rows)


def _variety(figures: Mapping[str, Any]) -> str:
    row = figures.get("diversity")
    if not row:
        return "Not measured: it needs `--reference-dir` with styles."
    return (
        f"Mean distance (1 - cosine of CLAP) between four seeds of one prompt: {row['seeds']:.3f}; "
        f"between real songs of the same style: {row['real']:.3f}; ratio {_shown(row['ratio'])} "
        f"over {row['prompts']} prompts."
    )


def _codec(figures: Mapping[str, Any]) -> str:
    row = figures.get("codec")
    if not row:
        return "Not measured: it needs `--reference-dir`."
    names = {
        "snr": "SNR, dB",
        "log_mel_error": "log-mel error, nats",
        "comb": "comb of steady tones, dB above its surroundings",
        "clicks": "clicks a second",
    }
    return (
        f"Round trips of {row['windows']} windows of held-out songs, medians; comb and clicks "
        "count what the original does not have.\n\n"
    ) + _table(("what", "median"), [(label, _shown(row[name])) for name, label in names.items()])


def _ablations(figures: Mapping[str, Any]) -> str:
    rows = []
    for name, row in (figures.get("ablations") or {}).items():
        correlations = [r["clap"]["value"] for r in row["structure"].values() if r["clap"]]
        rows.append(
            (
                LABELS.get(name, name),
                _shown(row["fad"]),
                _shown(row.get("fad_added")),
                _shown(row["clap_score"]),
                _shown(row.get("clap_score_lost")),
                _shown(row.get("instrument_auc")),
                f"{np.mean(correlations):.2f}" if correlations else "-",
                _number(PAPER_FAD.get(name), 3),
            )
        )
    if not rows:
        return "Not measured."
    count = next(iter(figures["ablations"].values()))["songs"]
    heads = (
        "variant", "FAD", "FAD added", "CLAP score", "CLAP score lost", "instruments, AUC",
        "structure, mean r", "paper's FAD",
    )  # fmt: skip
    return (
        f"The same {count} prompts and seeds. `added` and `lost` compare prompt by prompt with the "
        "whole method: above 0 the variant is worse, and an interval that holds 0 shows no "
        "difference.\n\n"
    ) + _table(heads, rows)


def _methods(figures: Mapping[str, Any]) -> str:
    return "\n".join(
        (
            "- **FAD**: Frechet distance of CLAP embeddings of 10 s windows, fadtk's definition "
            "(held to scipy's matrix square root within 1e-4 by a test); FAD-infinity from a line "
            "through subsets over 1/n. Few windows make FAD large, even of real songs: compare "
            "equal numbers.",
            "- **CLAP score**: cosine of prompt and audio, by the CLAP the model was trained with. "
            "It flatters the model; another CLAP can be passed as `--clap`.",
            "- **Tagger**: a small network trained on the band's scores, no part of the model "
            "(`musicot_mlx/reference/tagger.py`). It never heard generated music.",
            "- **Tempo**: autocorrelation of onset strength at a beat, its half, double and four "
            "times it (`audio/signals.py`).",
            "- **Comb**: level in dB, averaged over time, at multiples of the decoder's frame rate "
            "above what lies between them, 4 to 16 kHz. **Clicks**: samples whose second "
            "difference stands out 20-fold from its 8 ms.",
            "- **Audiobox-Aesthetics** (the paper's CE, CU, PC, PQ) is not part of this: its "
            "checkpoint is a WavLM of its own. Score the renders of `--output` with "
            "`pip install audiobox_aesthetics`, which reads a list of files.",
        )
    )


def _shown(value: Mapping[str, Any] | None) -> str:
    if not value:
        return "-"
    digits = 1 if abs(value["value"]) >= 10 else 2 if abs(value["value"]) >= 0.1 else 3
    if "low" not in value:
        return f"{value['value']:.{digits}f}"
    low, high = (f"{value[end]:.{digits}f}" for end in ("low", "high"))
    return f"{value['value']:.{digits}f} [{low}, {high}]"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |" for row in rows])
