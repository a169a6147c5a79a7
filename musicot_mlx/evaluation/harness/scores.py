"""From what was heard to figures: every measure of a model, with its interval, as plain JSON."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np

from musicot_mlx.evaluation.harness.reference_songs import CodecTrial, RealSong
from musicot_mlx.evaluation.harness.renders import BASE, CAPTIONS, WORDINGS, Heard, Take
from musicot_mlx.evaluation.measures.agreement import pearson
from musicot_mlx.evaluation.measures.bootstrap import DRAWS, interval, mean_interval
from musicot_mlx.evaluation.measures.fad import (
    Gaussian,
    fad_infinity,
    fad_of_songs,
    frechet_distance,
    gaussian,
)
from musicot_mlx.evaluation.measures.tagger_scores import (
    areas_by_label,
    divergence,
    label_columns,
    mean_area,
    tempo_error,
)

NEAR = 0.08  # how far a tempo may be from the one asked, its double or its half
FAD_DRAWS = 100  # draws of an interval that takes a singular value decomposition each
ANCHORS = ("drums", "bass", "piano", "guitar", "strings", "synth")
PAPER = {"drums": 0.639, "bass": 0.584, "piano": 0.531, "guitar": 0.628}  # section 5.3
PAPER_FAD = {  # Table 1: CLAP FAD on MUSDB18-HQ
    WORDINGS: 0.102,
    "single temperature": 0.111,
    "single guidance": 0.106,
    "neither": 0.113,
    BASE: 0.112,
}

Pair = tuple[Take, Heard]


def group_scores(
    pairs: Sequence[Pair],
    reference: Gaussian | None,
    embed: Callable[..., np.ndarray],
    labels: Sequence[str],
) -> dict[str, Any]:
    """The measures of a group of takes: FAD, CLAP score, tempo, and the instruments asked for."""
    heard = [h for _, h in pairs]
    texts = embed([take.prompt.text for take, _ in pairs])
    cosines = [float((h.clap @ text).mean()) for h, text in zip(heard, texts, strict=True)]
    found: dict[str, Any] = {
        "songs": len(pairs),
        "windows": sum(len(h.clap) for h in heard),
        "clap_score": _json(mean_interval(cosines, draws=DRAWS)),
        "fad": None,
        "fad_infinity": None,
    }
    if reference is not None:
        found |= fad_scores([h.clap for h in heard], reference)
    errors = [tempo_error(h.tempo, t.prompt.bpm) for t, h in pairs if t.prompt.bpm]
    found["tempo_within"] = _json(mean_interval([float(e <= NEAR) for e in errors]))
    found |= harmony_scores(heard)
    asked = [(t, h) for t, h in pairs if t.prompt.asked]
    if labels and asked:
        columns = np.stack([label_columns(labels, t.prompt.asked, t.prompt.open) for t, _ in asked])
        tags = np.stack([h.tags.mean(axis=0) for _, h in asked])
        rows = list(zip(tags, columns, strict=True))
        area = interval(rows, lambda drawn: mean_area(*map(np.stack, zip(*drawn, strict=True))))
        found["instrument_auc"] = _json(area)
        found["auc_by_label"] = {
            name: _rounded(value)
            for name, value in zip(labels, areas_by_label(tags, columns), strict=True)
        }
    return found


def harmony_scores(heard: Sequence[Heard]) -> dict[str, Any]:
    """How much of the songs lies in one key, and how many of the chords asked for are heard."""
    return {
        name: _json(mean_interval([value for value in values if np.isfinite(value)]))
        for name, values in (
            ("share_in_key", [h.key_share for h in heard]),
            ("chords_heard", [h.chords for h in heard]),
        )
    }


def fad_scores(songs: Sequence[np.ndarray], reference: Gaussian) -> dict[str, Any]:
    """FAD with its interval and FAD-infinity of songs' embeddings (windows, dim); None for one."""
    if sum(map(len, songs)) < 2:
        return {"fad": None, "fad_infinity": None}
    far = fad_infinity(reference, songs)
    return {
        "fad": _json(interval(songs, fad_of_songs(reference), draws=FAD_DRAWS)),
        "fad_infinity": None
        if far is None
        else {"value": _rounded(far.value), "r2": _rounded(far.r2)},
    }


def structure(
    pairs: Sequence[Pair],
    embed: Callable[..., np.ndarray],
    labels: Sequence[str],
    embed_plan: Callable[..., np.ndarray] | None = None,
) -> dict[str, Any]:
    """Does the audio hold, segment by segment, what the plan holds? Pearson's r per anchor.

    `clap`: planned activity against that of the render in CLAP's space; `tagger`: against what the
    tagger hears. Over all segments of all songs, songs drawn again for the interval. embed_plan is
    that of the CLAP whose space the plans live in, where another one listens.
    """
    planned = [(h.planned[: len(h.clap)], h) for _, h in pairs if len(h.planned)]
    if not planned:
        return {}
    texts = embed(list(ANCHORS))  # (anchors, dim)
    asked = texts if embed_plan is None else embed_plan(list(ANCHORS))
    songs = [(p @ asked.T, h.clap[: len(p)] @ texts.T, h.tags[: len(p)]) for p, h in planned]
    found: dict[str, Any] = {}
    for column, anchor in enumerate(ANCHORS):

        def by_clap(drawn: Sequence[Any], column: int = column) -> float:
            return _r([s[0][:, column] for s in drawn], [s[1][:, column] for s in drawn])

        row = {"clap": _json(interval(songs, by_clap)), "tagger": None, "paper": PAPER.get(anchor)}
        if anchor in labels:
            place = list(labels).index(anchor)

            def by_tagger(drawn: Sequence[Any], column: int = column, place: int = place) -> float:
                return _r([s[0][:, column] for s in drawn], [s[2][:, place] for s in drawn])

            row["tagger"] = _json(interval(songs, by_tagger))
        found[anchor] = row
    return found


def _r(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    columns = (np.concatenate(list(x))[:, None] for x in (first, second))
    return float(pearson(*columns)[0])


def diversity(
    pairs: Sequence[Pair], songs: Sequence[RealSong], heard: Sequence[Heard]
) -> dict[str, Any] | None:
    """Distance (1 - cosine) between seeds of one prompt, against real songs of the same style."""
    rows = []
    for index in sorted({take.index for take, _ in pairs}):
        same = [(t, h) for t, h in pairs if t.index == index]
        style = same[0][0].prompt.style
        real = [h.clap[0] for s, h in zip(songs, heard, strict=True) if style and s.style == style]
        if len(same) < 2 or len(real) < 2:
            continue
        rows.append((_spread([h.clap[0] for _, h in same]), _spread(real[:16])))
    if not rows:
        return None
    made, found = np.mean(rows, axis=0)
    ratio = interval(
        rows, lambda drawn: float(np.mean(drawn, axis=0)[0] / np.mean(drawn, axis=0)[1])
    )
    return {
        "prompts": len(rows),
        "seeds": _rounded(made),
        "real": _rounded(found),
        "ratio": _json(ratio),
    }


def _spread(vectors: Sequence[np.ndarray]) -> float:
    return float(np.mean([1 - a @ b for a, b in combinations(vectors, 2)]))


def caption_divergence(pairs: Sequence[Pair], real: Sequence[Heard]) -> dict[str, Any] | None:
    """Divergence of tags between a held-out song's window and the take made from its caption."""
    values = [divergence(r.tags[:1], h.tags[:1]) for (_, h), r in zip(pairs, real, strict=False)]
    return _json(mean_interval(values))


def real_scores(
    songs: Sequence[RealSong], heard: Sequence[Heard], reference: Gaussian
) -> dict[str, Any]:
    """What real music scores by the same measures: the floor of FAD, the ceiling of the tempo."""
    tempi = [(h.tempo, s.bpm) for s, h in zip(songs, heard, strict=True) if s.bpm > 0]
    errors = [tempo_error(found, bpm) for found, bpm in tempi]
    mixed = [tempo_error(a[0], b[1]) for a, b in permutations(tempi, 2)]  # another song's tempo
    return {
        "songs": len(songs),
        "windows": sum(len(h.clap) for h in heard),
        **fad_scores([h.clap for h in heard], reference),
        "tempo_within": _json(mean_interval([float(e <= NEAR) for e in errors])),
        **harmony_scores(heard),
        "tempo_by_chance": float(np.mean([e <= NEAR for e in mixed])) if mixed else None,
    }


def codec_scores(
    trial: CodecTrial, reference: Gaussian, originals: Sequence[Heard]
) -> dict[str, Any]:
    """Medians of the round trips with their intervals, and the FAD of what comes back: from other
    songs, as generated ones have it, and from the very songs that were sent.
    """
    found: dict[str, Any] = {"windows": len(trial.trips)}
    for name in ("snr", "log_mel_error", "comb", "clicks"):
        values = [getattr(trip, name) for trip in trial.trips]
        found[name] = _json(interval(values, lambda drawn: float(np.median(drawn))))
    sent, back = (np.concatenate([h.clap for h in heard]) for heard in (originals, trial.heard))
    found["fad_of_originals"] = _rounded(frechet_distance(gaussian(sent), gaussian(back)))
    found |= harmony_scores(trial.heard)
    return found | fad_scores([h.clap for h in trial.heard], reference)


def scores(
    pairs: Sequence[Pair],
    *,
    embed: Callable[..., np.ndarray],
    labels: Sequence[str],
    embed_plan: Callable[..., np.ndarray] | None = None,
    real: Mapping[str, tuple[Sequence[RealSong], Sequence[Heard]]] | None = None,
    codec: CodecTrial | None = None,
) -> dict[str, Any]:
    """All figures. embed(texts) -> (texts, dim) of the CLAP that listens, embed_plan of the model's
    own; real: training and held_out songs as heard.
    """
    reference, found = None, {}
    if real is not None:
        reference = gaussian(np.concatenate([h.clap for h in real["training"][1]]))
        found["reference_windows"] = sum(len(h.clap) for h in real["training"][1])
        found["real"] = real_scores(*real["held_out"], reference)
        if codec is not None:
            found["codec"] = codec_scores(codec, reference, real["held_out"][1])
    by_variant: dict[str, list[Pair]] = {}
    for take, heard in pairs:
        by_variant.setdefault(take.variant, []).append((take, heard))
    first = [pair for pair in by_variant.get(WORDINGS, []) if pair[0].seed == 1]
    ablated = {name for name in by_variant if name not in (WORDINGS, CAPTIONS)}
    compared = {take.index for name in ablated for take, _ in by_variant[name]}
    found["groups"] = {WORDINGS: group_scores(first, reference, embed, labels)}
    if CAPTIONS in by_variant:
        group = by_variant[CAPTIONS]
        found["groups"][CAPTIONS] = group_scores(group, reference, embed, labels)
        if real is not None and labels:
            held_out = [h for s, h in zip(*real["held_out"], strict=True) if any(s.captions)]
            found["caption_divergence"] = caption_divergence(group, held_out)
    found["structure"] = structure(first, embed, labels, embed_plan)
    if real is not None:
        found["diversity"] = diversity(by_variant[WORDINGS], *real["training"])
        if labels:
            sets = (
                np.concatenate([h.tags for _, h in g])
                for g in (list(zip(*real["training"], strict=True)), first)
            )
            found["divergence"] = _rounded(divergence(*sets))
    if ablated:
        same = [pair for pair in first if pair[0].index in compared]
        found["ablations"] = {
            name: group_scores(group, reference, embed, labels)
            | {"structure": structure(group, embed, labels, embed_plan)}
            | _against(same, group, embed, reference)
            for name, group in {
                WORDINGS: same,
                **{n: by_variant[n] for n in sorted(ablated)},
            }.items()
        }
    return found


def _against(
    ours: Sequence[Pair],
    theirs: Sequence[Pair],
    embed: Callable[..., np.ndarray],
    reference: Gaussian | None,
) -> dict[str, Any]:
    """What a variant loses against the whole method on the same prompts: CLAP score and FAD, each
    above 0 where the whole method is better.
    """
    if ours is theirs:
        return {}
    mine = {take.index: heard for take, heard in ours}
    pairs = [(mine[take.index], heard, take) for take, heard in theirs if take.index in mine]
    texts = embed([take.prompt.text for *_, take in pairs])
    gains = [
        float((a.clap @ text).mean() - (b.clap @ text).mean())
        for (a, b, _), text in zip(pairs, texts, strict=True)
    ]
    found = {"clap_score_lost": _json(mean_interval(gains)), "fad_added": None}
    if reference is not None and sum(len(heard.clap) for _, heard, _ in pairs) > 1:
        fad = fad_of_songs(reference)

        def added(drawn: Sequence[Any]) -> float:
            return fad([b.clap for _, b, _ in drawn]) - fad([a.clap for a, *_ in drawn])

        found["fad_added"] = _json(interval(pairs, added, draws=FAD_DRAWS))
    return found


def _json(found: Any) -> dict[str, Any] | None:
    return None if found is None else found.to_dict()


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
