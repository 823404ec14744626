"""Optimizers, one module each: how gradients become steps.

An optimizer's module defines
    RATE                 the peak rate that suits it for an adapter where AdamW's is 1e-4: where the user names none, a
                         run's rates are AdamW's in that proportion
    FINDS_RATE           True where it finds its rate by itself: RATE is then that of all parameters, whatever the model
    make(groups, **settings)    a torch optimizer over `groups`, dictionaries as torch takes them, each with its own `lr`;
                         settings are keyword arguments with defaults, which `--optimizer-args` can name
    BY_NUMBER            optional, True where the step of each number depends on that number's gradients alone, so that
                         a piece of a parameter is stepped as it would be in the whole
The learning rate of a group is its `lr` at each step, set from outside. `averaged(optimizer)` gives the parameters to
use and write, where those trained are others; `found(optimizer)` the numbers, by name, that it has found by itself, which
are those of its method `found()` where it has one. An optimizer of elsewhere is named by its import path, `module:Class`.
"""

from lorakit.training.optimizers._make import OptimizerGroup, averaged, found, groups_of, make, set_rates
from lorakit.training.optimizers._state import restore, state

__all__ = ["OptimizerGroup", "averaged", "found", "groups_of", "make", "restore", "set_rates", "state"]
