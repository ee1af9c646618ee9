"""Deterministic loads with their ground truth."""
