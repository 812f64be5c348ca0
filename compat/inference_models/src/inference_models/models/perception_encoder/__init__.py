"""Perception Encoder."""
