"""One module a command: paths in, a dict out. The only place where reading, arithmetic and writing meet."""
