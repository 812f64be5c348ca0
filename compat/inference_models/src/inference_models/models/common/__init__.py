"""What models share: the files of a folder."""
