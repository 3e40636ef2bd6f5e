"""Errors that a person can act on, as Dagster shows them."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import dagster as dg

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.execution.instance_errors import instance_error

P = ParamSpec("P")
R = TypeVar("R")


def readable_failures(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an error of an asset that a person can act on into a failure with its one sentence, not tried again."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BacktrackingError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        except Exception as error:
            # Logging writes to Dagster's store, which may be full or gone while the completions are not.
            readable = instance_error(error)
            if readable is None:
                raise
            raise dg.Failure(description=str(readable), allow_retries=False) from readable

    return wrapped
