"""Cluster bootstrap, intervals, power."""
