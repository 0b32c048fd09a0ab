"""Pages of the documentation that are made of other files."""
