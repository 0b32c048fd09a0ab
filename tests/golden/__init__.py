"""Checks against recordings of the official releases: every module here runs our code on recorded cases."""
