"""Brings Atlas to Amazon MWAA."""
