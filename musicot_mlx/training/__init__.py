"""Tuning on the machine at hand: data sets, losses, the loop, and the proof that it took."""
