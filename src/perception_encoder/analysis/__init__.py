"""What can be made of vectors and hits beyond a list: for now, pictures of results."""
