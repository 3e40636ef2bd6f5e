"""Errors that a person can act on, as Dagster shows and stores them."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import dagster as dg

from backtracking_assets.errors import BacktrackingError
from backtracking_assets.execution.instance_errors import instance_error
from backtracking_assets.redaction import chain_holds_secret, redacted

P = ParamSpec("P")
R = TypeVar("R")


def readable_failures(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an error of an asset that a person can act on into a failure with its one sentence, not tried again.

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
            # Logging writes to Dagster's store, which may be full or gone while the completions are not.
            readable = instance_error(error)
            if readable is not None:
                raise dg.Failure(description=redacted(str(readable)), allow_retries=False) from None
            if not chain_holds_secret(error):
                raise
            text = error.description if isinstance(error, dg.Failure) else f"{type(error).__name__}: {error}"
            raise dg.Failure(description=redacted(text or ""), allow_retries=False) from None

    return wrapped
