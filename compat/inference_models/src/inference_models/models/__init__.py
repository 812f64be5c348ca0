"""Models, at the module paths of the original."""
