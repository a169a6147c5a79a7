"""From features to figures: every measure of a model, with its interval, as plain JSON."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np

from musicot_mlx.evaluation.harness.reference_songs import CodecTrial, RealSong
from musicot_mlx.evaluation.harness.renders import (
    BASE,
    CAPTIONS,
    WORDINGS,
    EvalRender,
    SongFeatures,
)
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
FAD_DRAWS = 100  # draws of an interval that renders a singular value decomposition each
ANCHORS = ("drums", "bass", "piano", "guitar", "strings", "synth")
PAPER = {"drums": 0.639, "bass": 0.584, "piano": 0.531, "guitar": 0.628}  # section 5.3
PAPER_FAD = {  # Table 1: CLAP FAD on MUSDB18-HQ
    WORDINGS: 0.102,
    "single temperature": 0.111,
    "single guidance": 0.106,
    "neither": 0.113,
    BASE: 0.112,
}

Pair = tuple[EvalRender, SongFeatures]


def group_scores(
    pairs: Sequence[Pair],
    reference: Gaussian | None,
    embed: Callable[..., np.ndarray],
    labels: Sequence[str],
) -> dict[str, Any]:
    """The measures of a group of renders: FAD, CLAP score, tempo, and the instruments asked for."""
    features = [f for _, f in pairs]
    texts = embed([render.prompt.text for render, _ in pairs])
    cosines = [float((f.clap @ text).mean()) for f, text in zip(features, texts, strict=True)]
    figures: dict[str, Any] = {
        "songs": len(pairs),
        "windows": sum(len(f.clap) for f in features),
        "clap_score": _json(mean_interval(cosines, draws=DRAWS)),
        "fad": None,
        "fad_infinity": None,
    }
    if reference is not None:
        figures |= fad_scores([f.clap for f in features], reference)
    errors = [tempo_error(f.tempo, r.prompt.bpm) for r, f in pairs if r.prompt.bpm]
    figures["tempo_within"] = _json(mean_interval([float(e <= NEAR) for e in errors]))
    figures |= harmony_scores(features)
    asked = [(r, f) for r, f in pairs if r.prompt.asked]
    if labels and asked:
        columns = np.stack([label_columns(labels, r.prompt.asked, r.prompt.open) for r, _ in asked])
        tags = np.stack([f.tags.mean(axis=0) for _, f in asked])
        rows = list(zip(tags, columns, strict=True))
        area = interval(rows, lambda drawn: mean_area(*map(np.stack, zip(*drawn, strict=True))))
        figures["instrument_auc"] = _json(area)
        figures["auc_by_label"] = {
            name: _rounded(value)
            for name, value in zip(labels, areas_by_label(tags, columns), strict=True)
        }
    return figures


def harmony_scores(features: Sequence[SongFeatures]) -> dict[str, Any]:
    """How much of the songs lies in one key, and how many of the chords asked for are heard."""
    return {
        name: _json(mean_interval([value for value in values if np.isfinite(value)]))
        for name, values in (
            ("share_in_key", [f.key_share for f in features]),
            ("chords_heard", [f.chords for f in features]),
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

    `clap`: planned activity against that of the render in CLAP's space; `tagger`: against the
    tagger's scores. Over all segments of all songs, songs drawn again for the interval. embed_plan
    is that of the CLAP whose space the plans live in, where another one listens.
    """
    planned = [(f.planned[: len(f.clap)], f) for _, f in pairs if len(f.planned)]
    if not planned:
        return {}
    texts = embed(list(ANCHORS))  # (anchors, dim)
    asked = texts if embed_plan is None else embed_plan(list(ANCHORS))
    songs = [(p @ asked.T, f.clap[: len(p)] @ texts.T, f.tags[: len(p)]) for p, f in planned]
    correlations: dict[str, Any] = {}
    for column, anchor in enumerate(ANCHORS):

        def by_clap(drawn: Sequence[Any], column: int = column) -> float:
            return _r([s[0][:, column] for s in drawn], [s[1][:, column] for s in drawn])

        row = {"clap": _json(interval(songs, by_clap)), "tagger": None, "paper": PAPER.get(anchor)}
        if anchor in labels:
            place = list(labels).index(anchor)

            def by_tagger(drawn: Sequence[Any], column: int = column, place: int = place) -> float:
                return _r([s[0][:, column] for s in drawn], [s[2][:, place] for s in drawn])

            row["tagger"] = _json(interval(songs, by_tagger))
        correlations[anchor] = row
    return correlations


def _r(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    columns = (np.concatenate(list(x))[:, None] for x in (first, second))
    return float(pearson(*columns)[0])


def diversity(
    pairs: Sequence[Pair], songs: Sequence[RealSong], features: Sequence[SongFeatures]
) -> dict[str, Any] | None:
    """Distance (1 - cosine) between seeds of one prompt, against real songs of the same style."""
    rows = []
    for index in sorted({render.index for render, _ in pairs}):
        same = [(r, f) for r, f in pairs if r.index == index]
        style = same[0][0].prompt.style
        real = [
            f.clap[0] for s, f in zip(songs, features, strict=True) if style and s.style == style
        ]
        if len(same) < 2 or len(real) < 2:
            continue
        rows.append((_spread([f.clap[0] for _, f in same]), _spread(real[:16])))
    if not rows:
        return None
    seed_spread, real_spread = np.mean(rows, axis=0)
    ratio = interval(
        rows, lambda drawn: float(np.mean(drawn, axis=0)[0] / np.mean(drawn, axis=0)[1])
    )
    return {
        "prompts": len(rows),
        "seeds": _rounded(seed_spread),
        "real": _rounded(real_spread),
        "ratio": _json(ratio),
    }


def _spread(vectors: Sequence[np.ndarray]) -> float:
    return float(np.mean([1 - a @ b for a, b in combinations(vectors, 2)]))


def caption_divergence(
    pairs: Sequence[Pair], real: Sequence[SongFeatures]
) -> dict[str, Any] | None:
    """Divergence of tags between a held-out song's window and the render made from its caption."""
    values = [divergence(r.tags[:1], f.tags[:1]) for (_, f), r in zip(pairs, real, strict=False)]
    return _json(mean_interval(values))


def real_scores(
    songs: Sequence[RealSong], features: Sequence[SongFeatures], reference: Gaussian
) -> dict[str, Any]:
    """What real music scores by the same measures: the floor of FAD, the ceiling of the tempo."""
    tempi = [(f.tempo, s.bpm) for s, f in zip(songs, features, strict=True) if s.bpm > 0]
    errors = [tempo_error(tempo, bpm) for tempo, bpm in tempi]
    mixed = [tempo_error(a[0], b[1]) for a, b in permutations(tempi, 2)]  # another song's tempo
    return {
        "songs": len(songs),
        "windows": sum(len(f.clap) for f in features),
        **fad_scores([f.clap for f in features], reference),
        "tempo_within": _json(mean_interval([float(e <= NEAR) for e in errors])),
        **harmony_scores(features),
        "tempo_by_chance": float(np.mean([e <= NEAR for e in mixed])) if mixed else None,
    }


def codec_scores(
    trial: CodecTrial, reference: Gaussian, originals: Sequence[SongFeatures]
) -> dict[str, Any]:
    """Medians of the round trips with their intervals, and the FAD of what comes back: from other
    songs, as generated ones have it, and from the very songs that were sent.
    """
    figures: dict[str, Any] = {"windows": len(trial.trips)}
    for name in ("snr", "log_mel_error", "comb", "clicks"):
        values = [getattr(trip, name) for trip in trial.trips]
        figures[name] = _json(interval(values, lambda drawn: float(np.median(drawn))))
    sent, back = (
        np.concatenate([f.clap for f in features]) for features in (originals, trial.features)
    )
    figures["fad_of_originals"] = _rounded(frechet_distance(gaussian(sent), gaussian(back)))
    figures |= harmony_scores(trial.features)
    return figures | fad_scores([f.clap for f in trial.features], reference)


def scores(
    pairs: Sequence[Pair],
    *,
    embed: Callable[..., np.ndarray],
    labels: Sequence[str],
    embed_plan: Callable[..., np.ndarray] | None = None,
    real: Mapping[str, tuple[Sequence[RealSong], Sequence[SongFeatures]]] | None = None,
    codec: CodecTrial | None = None,
) -> dict[str, Any]:
    """All figures. embed(texts) -> (texts, dim) of the CLAP that listens, embed_plan of the model's
    own; real: training and held_out songs with their features.
    """
    reference: Gaussian | None = None
    figures: dict[str, Any] = {}
    if real is not None:
        reference = gaussian(np.concatenate([f.clap for f in real["training"][1]]))
        figures["reference_windows"] = sum(len(f.clap) for f in real["training"][1])
        figures["real"] = real_scores(*real["held_out"], reference)
        if codec is not None:
            figures["codec"] = codec_scores(codec, reference, real["held_out"][1])
    by_variant: dict[str, list[Pair]] = {}
    for render, features in pairs:
        by_variant.setdefault(render.variant, []).append((render, features))
    first = [pair for pair in by_variant.get(WORDINGS, []) if pair[0].seed == 1]
    ablated = {name for name in by_variant if name not in (WORDINGS, CAPTIONS)}
    compared = {render.index for name in ablated for render, _ in by_variant[name]}
    figures["groups"] = {WORDINGS: group_scores(first, reference, embed, labels)}
    if CAPTIONS in by_variant:
        group = by_variant[CAPTIONS]
        figures["groups"][CAPTIONS] = group_scores(group, reference, embed, labels)
        if real is not None and labels:
            held_out = [f for s, f in zip(*real["held_out"], strict=True) if any(s.captions)]
            figures["caption_divergence"] = caption_divergence(group, held_out)
    figures["structure"] = structure(first, embed, labels, embed_plan)
    if real is not None:
        figures["diversity"] = diversity(by_variant[WORDINGS], *real["training"])
        if labels:
            sets = (
                np.concatenate([f.tags for _, f in g])
                for g in (list(zip(*real["training"], strict=True)), first)
            )
            figures["divergence"] = _rounded(divergence(*sets))
    if ablated:
        same = [pair for pair in first if pair[0].index in compared]
        figures["ablations"] = {
            name: group_scores(group, reference, embed, labels)
            | {"structure": structure(group, embed, labels, embed_plan)}
            | _against(same, group, embed, reference)
            for name, group in {
                WORDINGS: same,
                **{n: by_variant[n] for n in sorted(ablated)},
            }.items()
        }
    return figures


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
    mine = {render.index: features for render, features in ours}
    pairs = [
        (mine[render.index], features, render)
        for render, features in theirs
        if render.index in mine
    ]
    texts = embed([render.prompt.text for *_, render in pairs])
    gains = [
        float((a.clap @ text).mean() - (b.clap @ text).mean())
        for (a, b, _), text in zip(pairs, texts, strict=True)
    ]
    losses = {"clap_score_lost": _json(mean_interval(gains)), "fad_added": None}
    if reference is not None and sum(len(features.clap) for _, features, _ in pairs) > 1:
        fad = fad_of_songs(reference)

        def added(drawn: Sequence[Any]) -> float:
            return fad([b.clap for _, b, _ in drawn]) - fad([a.clap for a, *_ in drawn])

        losses["fad_added"] = _json(interval(pairs, added, draws=FAD_DRAWS))
    return losses


def _json(estimate: Any) -> dict[str, Any] | None:
    return None if estimate is None else estimate.to_dict()


def _rounded(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
