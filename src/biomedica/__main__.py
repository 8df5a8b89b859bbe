"""`python -m biomedica` is `biomedica`."""

from biomedica.cli import main

if __name__ == "__main__":
    main()
