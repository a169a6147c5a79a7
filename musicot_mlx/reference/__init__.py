"""The same system in PyTorch: parity, pretraining, and the band that makes training music."""
