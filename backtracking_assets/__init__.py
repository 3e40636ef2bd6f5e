"""Which layers make a reasoning model backtrack? A Dagster asset graph for reproducible experiments."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("backtracking-assets")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
