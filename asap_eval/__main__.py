"""``python -m asap_eval``: the same as ``asap-eval``."""

import sys

from asap_eval.cli import main

if __name__ == "__main__":
    sys.exit(main())
