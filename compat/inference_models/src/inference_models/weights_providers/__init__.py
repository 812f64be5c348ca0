"""Where models come from: what is known of their packages, and who can be asked."""
