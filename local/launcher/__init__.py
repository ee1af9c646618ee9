"""Set-up, start and stop of everything a laptop needs. Standard library only: it runs before anything is installed."""
