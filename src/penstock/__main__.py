"""`python -m penstock` is `penstock`."""

from penstock.entry.cli import main

if __name__ == "__main__":
    main()
