"""What the examples learn from, where it is generated."""
