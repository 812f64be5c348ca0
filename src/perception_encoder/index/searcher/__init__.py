"""A cache beside the index that makes searching it fast. It may be deleted at any time."""
