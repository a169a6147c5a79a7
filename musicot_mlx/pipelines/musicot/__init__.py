"""MusiCoT: a prompt becomes thoughts, the thoughts audio tokens, and these a waveform."""
