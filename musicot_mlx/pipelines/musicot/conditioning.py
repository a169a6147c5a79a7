"""What a song is asked for, as the language model takes it: CLAP vector, tags, lyrics, tempo."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from musicot_mlx.errors import MusicotError, MusicotWarning, nearest
from musicot_mlx.generation.semantic import SemanticCondition
from musicot_mlx.models.semantic_lm import SemanticLM
from musicot_mlx.pipelines.plans.thoughts import unit
from musicot_mlx.tokens.denials import reading
from musicot_mlx.tokens.tags import alone, chosen_tags
from musicot_mlx.tokens.tempo import asked_tempo, named_tempo, nearest_tempo

if TYPE_CHECKING:
    from musicot_mlx.pipelines.clap import ClapEmbedder
    from musicot_mlx.pipelines.musicot.wording import Wording
    from musicot_mlx.pipelines.plans.plan import Plan


class Conditioning:
    """Prompts, tags and lyrics to conditions of a language model.

    tag_threshold: how near a tag must lie to a prompt to count (delta of section 4.1).
    """

    def __init__(
        self, clap: "ClapEmbedder", lm: SemanticLM, *, wording: "Wording", tag_threshold: float
    ) -> None:
        self.clap, self.lm, self.wording = clap, lm, wording
        self.tag_threshold = tag_threshold
        wording.check(lm.config.audio_codebook_size, lm.config.clap_dim)

    @cached_property
    def tag_vectors(self) -> np.ndarray:
        """CLAP text embeddings of the model's tags, (tags, dim); constant for a model."""
        return self.clap.embed_text(list(self.lm.config.tags))

    def condition(
        self, vector: np.ndarray, tags: Sequence[str], lyrics: str, *words: str | None
    ) -> SemanticCondition:
        """Tags, lyrics, and what words tell of tempo and deny, beside a CLAP vector (dim,)."""
        vocabulary, names = self.lm.config.vocabulary, self.lm.config.tags

        def encode(text: str) -> list[int]:
            return self.clap.tokenizer.encode(text, add_special_tokens=False).ids

        return SemanticCondition(
            clap=vector,
            tags=[vocabulary.tag_id(names.index(tag)) for tag in tags],
            lyrics=vocabulary.lyrics_ids(lyrics, encode),
            bpm=asked_tempo(tags, words),
            lean=self.wording.lean(*words),
        )

    def vector(self, words: str) -> np.ndarray:
        """The CLAP vector (dim,) of what words ask for, led away from what they deny."""
        vector = self.clap.embed_text([self.wording.asked(words)])[0]
        leaving = self.wording.leaving(words)
        return vector if leaving is None else unit(vector + leaving)

    def of_plan(self, plan: "Plan") -> SemanticCondition:
        """What the whole song is asked for."""
        condition = self.condition(plan.vector, plan.tags, plan.lyrics, plan.prompt)
        bpm = asked_tempo(plan.tags, [plan.prompt], exact=plan.bpm)
        return replace(condition, chords=plan.chord_changes(), bpm=bpm)

    def changes(self, plan: "Plan", songs: int) -> dict[int, list[SemanticCondition]]:
        """What the LM is asked for from a segment on: of a guest its own words and its own thought,
        as in training, where the vector is that of audio; then the song again.
        """
        changes: dict[int, list[SemanticCondition]] = {}
        guests = plan.guests()
        for segment, (guest, tags) in enumerate(zip(guests, self.tags_of(plan), strict=True)):
            if guest is not None:
                own, said = plan.embeddings[segment], (guest.text, plan.prompt, *plan.tags)
                condition = self.condition(own, tags, plan.lyrics, *said)
                bpm = asked_tempo(tags, said, exact=plan.bpm)
                condition = replace(
                    condition, chords=plan.chord_changes(), bpm=bpm, part=guest.part
                )
                if guest.text is None:  # what audio holds, it may keep
                    condition = replace(condition, lean=None)
                changes[segment] = [condition] * songs
            elif segment and guests[segment - 1] is not None:
                changes[segment] = [self.of_plan(plan)] * songs
        return changes

    def tags_of(self, plan: "Plan") -> list[Sequence[str]]:
        """The tags that each segment is asked for with: a guest's own, else the song's."""
        found: list[Sequence[str]] = []
        for segment, guest in enumerate(plan.guests()):
            if guest is None:
                found.append(plan.tags)
                continue
            own = plan.embeddings[segment]
            near = own if guest.text is None else self.vector(guest.text)
            # the first to tell a tempo counts
            found.append(self.tags(near, None, guest.text, plan.prompt, *plan.tags))
        return found

    def song_tags(
        self, vector: np.ndarray, wanted: Sequence[str] | None, prompt: str | None
    ) -> list[str]:
        """The tags of a song; where none is asked for and no tempo named, that of songs like it.

        But an instrument alone is left its own time, as is what shall have no drums: a small model
        hears a beat as drums.
        """
        tags, names = self.tags(vector, wanted, prompt), self.lm.config.tags
        free = wanted is not None or alone(names, prompt) or "drums" in reading(prompt).families
        if not free and not asked_tempo(tags, [prompt]):
            usual = self.lm.usual_tempo(vector, prompt)
            tags += [usual] if usual else []
        return tags

    def tags(
        self, vector: np.ndarray, wanted: Sequence[str] | None, *words: str | None
    ) -> list[str]:
        """The tags asked for, or those that the prompt's words or its CLAP vector call for.

        A tempo that is asked for becomes the nearest that the model has a tag for, with a warning.
        Raises MusicotError for another tag that the model does not have.
        """
        names = self.lm.config.tags
        if wanted is None:
            if not names:
                return []
            return chosen_tags(names, self.tag_vectors @ vector, self.tag_threshold, *words)
        wanted = [wanted] if isinstance(wanted, str) else wanted
        return [tag if tag in names else self._own_tag(tag) for tag in wanted]

    def _own_tag(self, tag: str) -> str:
        """The model's tag for what is written otherwise: "Piano", or a tempo between its own."""
        names = self.lm.config.tags
        small = {name.lower(): name for name in names}
        if tag.lower() in small:
            return small[tag.lower()]
        bpm = named_tempo(tag)
        if bpm and (found := nearest_tempo(names, bpm)):
            words = f"the tag {tag!r} is taken as {found!r}, the nearest tempo that the model has"
            warnings.warn(words, MusicotWarning, stacklevel=2)
            return found
        near = nearest(tag, names)
        hint = f"did you mean {near!r}?" if near else "musicot tags lists those that it has"
        raise MusicotError(f"tag {tag!r} is unknown to this model; {hint}", option="tags")
