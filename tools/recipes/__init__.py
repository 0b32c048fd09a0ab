"""Official recipes as data, and their comparison with the configs."""
