"""Base models: loading, adapting, encoding, drawing."""
