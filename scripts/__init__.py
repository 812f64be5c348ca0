"""What `make` runs that is neither the package nor a test."""
