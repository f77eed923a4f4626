"""`python -m gateway` is the `penstock` command."""

from gateway.cli.app import main

main()
