"""Snakemake's plugin `--logger ptqflow`: the console of `ptqflow run`. Snakemake finds it by the name of this package."""

import logging
import sys

from snakemake_interface_logger_plugins.base import LogHandlerBase


class LogHandler(LogHandlerBase):
    """One line for each job that ends; warnings and errors as Snakemake words them; nothing else."""

    def __post_init__(self) -> None:
        """A console on standard error."""
        # Not above: Snakemake imports every plugin that is installed, and a checkout brings a ptqflow of its own.
        from ptqflow.console import Console

        self.console = Console(lambda line: print(line, file=sys.stderr, flush=True))

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record of Snakemake's."""
        try:
            event = getattr(record, "event", None)
            told = event is not None and self.console.event(str(event), record.__dict__)
            if getattr(record, "exception", None) == "RuleException" and self.console.begun is not None:
                told = True  # of a job whose failure and log the console has shown
            if not told and record.levelno >= logging.WARNING:
                print(self.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)

    @property
    def writes_to_stream(self) -> bool:
        """It takes the place of Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Snakemake's log file stays Snakemake's."""
        return False

    @property
    def has_filter(self) -> bool:
        """It chooses what it shows."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Snakemake words what it says itself."""
        return False

    @property
    def needs_rulegraph(self) -> bool:
        """It draws none."""
        return False
