"""Where in the bar a frame lies, as features that the semantic LM adds to its input.

Not in the paper. A tempo tag says how fast; a small model does not learn to count frames from it
(a wrong tag cost it less than 0.002 nats a token). So where the tempo is known every audio token is
conditioned on its place in the bar, as MusiConGen (arXiv 2407.15060) conditions MusicGen: Fourier
features of the bar, so that one set of weights serves every tempo. Numpy alone, because both sides
count with it.
"""

import numpy as np

BEATS = 4  # in a bar


def beat_features(
    bpm: np.ndarray, *, frame_rate: float, harmonics: int, start: float = 0.0
) -> np.ndarray:
    """Cosines, then sines, of 1..harmonics turns a bar: float32 (frames, 2 * harmonics).

    bpm: beats a minute at each frame (frames,); where it changes the bar goes on, where it is 0 the
    features are zeros, which say nothing. start: seconds into the bar at the first frame.
    """
    speed = np.asarray(bpm, dtype=np.float64) / (60 * BEATS)  # bars a second
    passed = np.concatenate([[0.0], np.cumsum(speed[:-1]) / frame_rate])[: len(speed)]
    bars = passed + (start * speed[0] if len(speed) else 0.0)
    angles = 2 * np.pi * bars[:, None] * np.arange(1, harmonics + 1)
    features = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    return np.where(speed[:, None] > 0, features, 0.0).astype(np.float32)
