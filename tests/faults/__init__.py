"""Faults, done to real processes: nothing accepted is lost, nothing is recorded twice, nothing is left.

Engines run as processes of their own (`child`), forked from one that has all loaded (`children`), over either store
(`harness`). Each test has a short form; MINITANGO_LONG=1 runs the long one.
"""
