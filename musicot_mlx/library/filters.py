"""Which songs are meant, by what is told of them: conditions that LanceDB evaluates (SQL).

Values come from users, so each is a literal in quotes or a number; none becomes a part of the
language.
"""

from collections.abc import Collection, Iterable, Sequence

from musicot_mlx.errors import MusicotError
from musicot_mlx.pipelines.given import needed, text, texts_of
from musicot_mlx.tokens.harmony import parse_key


def quoted(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + text("a text of the library", value).replace("\0", "").replace("'", "''") + "'"


def among(column: str, values: Iterable[str]) -> str:
    """The condition that a column has one of these values."""
    return f"{column} IN ({', '.join(map(quoted, values))})"


def both(*conditions: str | None) -> str | None:
    """The condition that all of these hold; None where none is given."""
    given = [f"({each})" for each in conditions if each]
    return " AND ".join(given) or None


def wanted(
    *,
    key: str | None = None,
    tempo: tuple[float | None, float | None] | float | None = None,
    tags: str | Sequence[str] | None = None,
    licence: str | None = None,
    path: str | None = None,
) -> str | None:
    """The condition that songs are in a key, of a tempo, have all of the tags, a licence, and a
    path with this text in it; None where nothing is asked for.

    key: as parse_key reads it. tempo: BPM, (lowest, highest), either None; a number alone is within
    4 %. Capitals make no other tag or licence. Raises MusicotError for what is no key or tempo.
    """
    conditions = []
    if key is not None:
        try:
            conditions.append(f"key = {quoted(str(parse_key(text('key', key))))}")
        except ValueError as error:
            raise MusicotError(str(error)) from None
    if tempo is not None:
        low, high = _range(tempo)
        conditions += [f"tempo >= {low}"] if low is not None else []
        conditions += [f"tempo <= {high}"] if high is not None else []
    if tags is not None:
        found = [each.strip().lower() for each in texts_of("tags", tags)]
        conditions += [f"array_has(tags, {quoted(each)})" for each in found]
    if licence is not None:
        conditions.append(f"lower(licence) = {quoted(text('licence', licence).lower())}")
    if path is not None:
        conditions.append(f"contains(path, {quoted(text('path', path))})")
    return both(*conditions)


def without(families: Collection[str]) -> str | None:
    """The condition that none of these families of instruments is heard in a window."""
    return both(*(f"NOT array_has(heard, {quoted(each)})" for each in sorted(families)))


def _range(tempo: object) -> tuple[float | None, float | None]:
    """Lowest and highest BPM."""
    if not isinstance(tempo, (tuple, list)):
        bpm = needed("tempo", tempo, low=1, high=1000, unit="BPM")
        return 0.96 * bpm, 1.04 * bpm
    if len(tempo) != 2:
        raise MusicotError(f"tempo is {tempo!r}; give one BPM, or (lowest, highest)")
    ends = [None if e is None else needed("tempo", e, low=0, high=1000, unit="BPM") for e in tempo]
    if None not in ends and ends[0] > ends[1]:
        raise MusicotError(f"tempo goes from {ends[0]:g} to {ends[1]:g} BPM; give the lower first")
    return ends[0], ends[1]
