"""Merge methods, one module each: `merge(deltas, weights, *, <settings>)` for one target module.

deltas    the LowRank of each adapter, None where an adapter does not change the module; at least one is not None
weights   the user's number for each
settings  what a method can be told, each a keyword with a default; ValueError for a value out of range, for weights a
          method has no meaning for, and for a number of adapters it is not made for. A method that draws takes
          `generators`, one for each adapter: what one adapter loses depends neither on the others nor on their order
gives     where the merged delta is exactly low rank its factors, up [out, r] and down [r, in*kh*kw], scale and weights
          included; else the delta itself, [out, in*kh*kw]

A method acts on deltas: what it gives depends on up @ down and never on how a delta was split into factors. A lone delta
whose entries are all kept is scaled by its weight. Arguments stay as they were; factors in float64 are worked on so.
"""
