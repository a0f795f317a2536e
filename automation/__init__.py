"""The `pushtrain` command, and what it is made of."""
