"""The `backtracking` command."""

from backtracking_assets.cli.app import main

__all__ = ["main"]
