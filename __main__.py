"""`python -m delen`: the command line, for where the console script is not on the path."""

from .clients.cli import main

main()
