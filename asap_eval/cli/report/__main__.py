"""``python -m asap_eval.cli.report``, where the commands are not on the path."""

import sys

from asap_eval.cli.report import main

sys.exit(main())
