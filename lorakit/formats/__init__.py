"""File formats: pure functions between named tensors and what they mean. No file is opened here."""
