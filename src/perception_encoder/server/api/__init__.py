"""What requests and replies look like: one module or folder for each kind of client."""
