"""Files: written whole or not at all, read lazily, never executed."""
