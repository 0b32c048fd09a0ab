"""The tabs beside the picture, each a file; each has a function that builds it."""
