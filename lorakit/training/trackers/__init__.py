"""Where a run's numbers can be watched, one module each: `start(run_folder, config)` gives what has `log(step, numbers)`
and `close()`. The package it needs is imported then, with a hint where it is missing."""
