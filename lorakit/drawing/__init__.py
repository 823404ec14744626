"""Drawing: what is asked for, with which adapters, and the pictures of it."""
