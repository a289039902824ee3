"""`python -m ptqflow` is the console script `ptqflow`."""

from ptqflow.cli import main

raise SystemExit(main())
