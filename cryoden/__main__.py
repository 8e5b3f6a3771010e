"""`python -m cryoden` is `cryoden`."""

from cryoden.cli import main

main()
