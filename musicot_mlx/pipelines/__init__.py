"""Text to audio: one object per model family, and what it returns."""
