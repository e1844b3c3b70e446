"""`python -m psvit` is `psvit`."""

from psvit.commands.cli import main

main()
