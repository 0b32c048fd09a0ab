"""Evaluators, the loop that runs them, and the reports they end in."""
