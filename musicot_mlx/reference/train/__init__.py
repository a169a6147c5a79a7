"""Pretraining in stages: a studio, and a file for each kind of stage.

`studio` reads the config and rebuilds what earlier stages left; `audio` holds the stages that hear
waveforms, `encode` turns songs into codes and latents, `codes` holds the stages that learn from
those, `assemble` writes the checkpoint, `command` is the command line.
"""
