"""Where PyTorch and MLX meet: each network against its reference."""
