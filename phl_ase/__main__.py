"""``python -m phl_ase`` is ``phl``."""

from phl_ase.cli import main

if __name__ == "__main__":
    main()
