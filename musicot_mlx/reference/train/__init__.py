"""Pretraining in stages: a workspace, and a file for each kind of stage.

`workspace` reads the config and rebuilds what earlier stages left; `audio_stages` hold those that
hear waveforms; `encode` turns songs into codes and latents, which `encoded` keeps in memory;
`token_stages` and `diffusion_stages` learn from those; `usual_harmony` counts chords, `wording`
words; `assemble` writes the checkpoint, from which `warm_start` goes on; `command` is the command
line.
"""
