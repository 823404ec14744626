"""The algebra of low-rank deltas: factors in, factors out, never a dense matrix where factors will do."""
