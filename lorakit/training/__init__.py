"""The loop and what it is made of: caches, batches, rates, checkpoints."""
