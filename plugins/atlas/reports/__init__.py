"""Self-contained pages about a run: the quality gate's verdict and the run report."""
