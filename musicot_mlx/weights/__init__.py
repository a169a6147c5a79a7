"""Checkpoint folders: configs, safetensors, and the only download code."""
