"""Measures of songs and plans, the harness that judges a model by them, and speed."""
