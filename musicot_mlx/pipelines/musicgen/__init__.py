"""MusicGen: a prompt becomes EnCodec codes, and these a waveform."""
