"""Which layers make a reasoning model backtrack? A Dagster asset graph for reproducible experiments."""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Read where it is asked for: looking up a version takes a tenth of the time that `--help` may take.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("backtracking-assets")
    except PackageNotFoundError:  # a source tree that was never installed
        return "0+unknown"
