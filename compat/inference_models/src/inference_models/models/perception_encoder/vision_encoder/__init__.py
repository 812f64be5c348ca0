"""Perception Encoder's own preprocessing."""
