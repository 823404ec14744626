"""The arithmetic that merge methods share; `merging` itself holds one module a method."""
