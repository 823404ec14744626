"""Merge methods, one module each: `merge(parts, weights) -> (up, down)` for one target module.

parts    the LowRank of each adapter, None where an adapter does not change the module
weights  the user's number for each
gives    factors [out, r] and [r, in*kh*kw] in float32 whose product is the merged delta, scale included

A method acts on deltas: what it gives depends on up @ down and never on how a delta was split into factors.
"""
