"""`python -m ptqflow` is the console script `ptqflow`."""

import os
import sys

from ptqflow import warm

warm.hand_over(sys.argv[1:])

from ptqflow.cli import main  # noqa: E402 (what is handed over loads nothing here)

status = main()
if status == 1:  # the system refused: what libraries do on their way out needs memory once more, and may crash or hang
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
raise SystemExit(status)
