"""Timed comparisons of this project's fast forms with the plain ones, in one run and with their outputs compared."""
