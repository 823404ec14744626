"""Ways to compose, one module each: which adapters act together in a step, and how the forwards join.

A module has `passes(step, weights, **settings)`: for the step, counted from 0, and each adapter's weight there, a list of
(share, weights). Each is a forward of the UNet with those weights; the predictions, guided each by itself, are averaged by
their shares, which sum to 1. Keyword settings are numbers with defaults. With one adapter the result is that adapter at
its weight.
"""
