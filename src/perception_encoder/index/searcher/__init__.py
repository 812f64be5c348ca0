"""A cache beside the table that makes searching it fast. It may be deleted at any time."""
