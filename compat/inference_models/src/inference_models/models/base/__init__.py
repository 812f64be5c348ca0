"""What kinds of models have in common."""
