"""Run the command line: ``python -m tinyrwkv COMMAND``."""

import sys

from .cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
