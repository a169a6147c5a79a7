"""Audio files, resampling, and the front ends that networks hear through."""
