"""Magenta RealTime 2: thoughts of ten seconds become frames of codes, and these a waveform."""
