"""Training and evaluation: loop, solver, schedules, checkpoints, processes."""
