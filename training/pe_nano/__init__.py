"""Training of `pe-nano`: data preparation from openly licensed drawings and their names."""
