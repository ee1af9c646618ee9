"""Sensors for what the Amazon provider has none for."""
