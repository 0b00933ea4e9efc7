"""`python -m bitcodec_cli` is the `bitcodec` command."""

from bitcodec_cli.main import main

main()
