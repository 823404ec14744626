"""The arithmetic of diffusion: noise, targets, weights. Pure functions of tensors."""
