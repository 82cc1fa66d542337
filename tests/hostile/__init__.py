"""Hostile hand-ins, and what must become of each."""
