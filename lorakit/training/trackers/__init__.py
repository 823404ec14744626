"""Where a run's numbers can be watched, one module each: `start(run_folder, config)` gives what has `log(step, numbers)`
and `close()`; `NEEDS` is the package it needs, the extra that brings it and the option that asks for it."""
