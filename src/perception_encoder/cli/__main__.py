"""`python -m perception_encoder.cli` is `pe`."""

from perception_encoder.cli.main import main

main()
