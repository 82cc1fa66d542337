"""minitango grades programming submissions: a durable queue, a sandbox for each, an honest score."""

__version__ = "0.1.0"
