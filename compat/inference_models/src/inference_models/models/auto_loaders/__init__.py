"""Opening models: by id, from a folder, and what is said of them."""
