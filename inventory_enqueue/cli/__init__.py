"""The command line: options become a RunConfig, a RunReport becomes text or JSON and an exit code."""
