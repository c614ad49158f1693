"""`python -m hemoscan`."""

from hemoscan.cli import main

main()
