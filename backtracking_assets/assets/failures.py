"""Errors that a person can act on, as Dagster shows them."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import dagster as dg

from backtracking_assets.errors import BacktrackingError

P = ParamSpec("P")
R = TypeVar("R")


def readable_failures(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a `BacktrackingError` of an asset into a failure with its one sentence, without automatic retries."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BacktrackingError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    return wrapped
