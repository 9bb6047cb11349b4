"""Run the command line: ``python -m tinyrwkv COMMAND``."""

import sys

from .extra.cli import main

if __name__ == "__main__":
    sys.exit(main())
