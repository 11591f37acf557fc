"""`python -m hashmill` is `hashmill`."""

from hashmill.cli.main import main

main()
