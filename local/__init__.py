"""The embedded AWS and the launcher: everything that is only for a laptop or CI, never shipped to Amazon MWAA."""
