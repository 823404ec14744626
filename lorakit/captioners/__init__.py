"""Captioners, one module each: `caption(picture) -> str` for the file of a source picture."""
