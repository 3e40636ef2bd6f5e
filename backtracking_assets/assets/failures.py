"""Errors that a person can act on, as Dagster shows and stores them."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import dagster as dg

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.redaction import chain_holds_secret, redacted

P = ParamSpec("P")
R = TypeVar("R")


def readable_failures(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a `BacktrackingError` of an asset into a failure with its one sentence, without automatic retries.

    Dagster stores the texts of an exception and of those it came from; an exception that holds a secret of the
    environment is replaced by a failure that does not.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BacktrackingError as error:
            cause = None if chain_holds_secret(error) else error
            raise dg.Failure(description=redacted(str(error)), allow_retries=False) from cause
        except Exception as error:
            if not chain_holds_secret(error):
                raise
            text = error.description if isinstance(error, dg.Failure) else f"{type(error).__name__}: {error}"
            raise dg.Failure(description=redacted(text or ""), allow_retries=False) from None

    return wrapped
