"""`python -m minitango`: the command line."""

from minitango.cli import main

main()
