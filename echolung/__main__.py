"""`python -m echolung`: the command line."""

from echolung.cli.main import main

main()
