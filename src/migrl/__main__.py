"""`python -m migrl` is the command `migrl`."""

from migrl.cli import main

main()
