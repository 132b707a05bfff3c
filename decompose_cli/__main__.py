"""Running the program as ``python -m decompose_cli``."""

from decompose_cli.cli import main

if __name__ == "__main__":
    main()
