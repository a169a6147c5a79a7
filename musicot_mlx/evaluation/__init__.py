"""Measures and pictures of plans and audio."""
