"""Whatever draws samples: filters, guidance, the token loops, the diffusion samplers."""
