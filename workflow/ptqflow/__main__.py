"""`python -m ptqflow` is the console script `ptqflow`."""

import os
import sys

from ptqflow.cli import main

status = main()
if status == 1:  # the system refused: what libraries do on their way out needs memory once more, and may crash or hang
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
raise SystemExit(status)
