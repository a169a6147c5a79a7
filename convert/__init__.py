"""PyTorch checkpoints to MLX folders."""
