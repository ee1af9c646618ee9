"""Operators the Amazon provider does not have."""
