"""HTML report of a program, comparison of several, and their plots as files."""

from xbc.report.write import write_plots, write_report

__all__ = ["write_plots", "write_report"]
