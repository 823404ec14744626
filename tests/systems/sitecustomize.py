"""Python runs this at the start of each process that `pytest --on` starts."""

import os

import pretend

if system := os.environ.get(pretend.VARIABLE):
    pretend.install(system)
