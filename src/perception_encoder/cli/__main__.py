"""Runs `pe` as `python -m perception_encoder.cli`."""

from perception_encoder.cli.main import main

main()
