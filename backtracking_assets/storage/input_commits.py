"""Writing what completions are asked of: problems, and what layer subsets are made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from backtracking_assets.conditions import Composition, problem_set_digest
from backtracking_assets.errors import StorageError
from backtracking_assets.records import Problem
from backtracking_assets.storage.database import DEFAULT_WAIT, writing
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import table_of
from backtracking_assets.storage.statements import count, insert_rows, put_row
from backtracking_assets.storage.tables import TABLES


@dataclass(frozen=True)
class SubsetRow:
    """What a layer subset is made of."""

    name: str
    composition: Composition
    control_of: str | None = None
    derived_from: str | None = None


@dataclass(frozen=True)
class Inputs:
    """What completions are asked of; empty where it is stored already, or does not apply."""

    problems: Sequence[Problem] = ()
    subset: SubsetRow | None = None


NO_INPUTS = Inputs()


def write_problem_set(layout: StoreLayout, problems: Sequence[Problem], *, wait: float = DEFAULT_WAIT) -> str:
    """Store a set of problems; its digest.

    Raises:
        StorageError: two problems share an id, or there is none.
    """
    if not problems:
        raise StorageError(_NO_SET)
    with writing(layout, wait=wait) as connection:
        put_inputs(connection, Inputs(problems))
    return problem_set_digest(problems)


def write_layer_subset(
    layout: StoreLayout,
    layer_subset: str,
    composition: Composition,
    *,
    control_of: str | None = None,
    derived_from: str | None = None,
    wait: float = DEFAULT_WAIT,
) -> str:
    """Store what a layer subset is made of; the digest of its composition, whatever the order of its components."""
    with writing(layout, wait=wait) as connection:
        put_inputs(connection, Inputs(subset=SubsetRow(layer_subset, composition, control_of, derived_from)))
    return composition.digest


def put_inputs(connection: duckdb.DuckDBPyConnection, inputs: Inputs) -> None:
    """Store what is given, within a transaction.

    Raises:
        StorageError: two problems share an id.
    """
    if inputs.problems:
        _put_problems(connection, inputs.problems)
    if inputs.subset is not None:
        _put_subset(connection, inputs.subset)


_NO_SET = "A problem set needs at least one problem, and an id of its own for each."


def _put_problems(connection: duckdb.DuckDBPyConnection, problems: Sequence[Problem]) -> None:
    if len({problem.problem_id for problem in problems}) != len(problems):
        raise StorageError(_NO_SET)
    name = problem_set_digest(problems)
    stored = count(connection, "select count(*) from problem_sets where problem_set_digest = ?", [name])
    if stored == len(problems):
        return  # its digest says that these are the same
    rows = [
        {"problem_set_digest": name, "problem_id": p.problem_id, "question": p.question, "answer": p.answer}
        for p in problems
    ]
    connection.execute("delete from problem_sets where problem_set_digest = ?", [name])
    insert_rows(connection, "problem_sets", table_of(rows, TABLES["problem_sets"].schema))


def _put_subset(connection: duckdb.DuckDBPyConnection, subset: SubsetRow) -> None:
    composition = subset.composition
    scales_odds = composition.trigger_tokens is not None
    row = {
        "layer_subset": subset.name,
        "kind": "trigger_logits" if scales_odds else "components",
        "components": [f"{component}.{layer}" for layer, component in sorted(set(composition.components))],
        "towards": None if scales_odds else "zero" if composition.means_digest is None else "mean",
        "means_digest": composition.means_digest,
        "trigger_tokens": None if composition.trigger_tokens is None else sorted(composition.trigger_tokens),
        "digest": composition.digest,
        "control_of": subset.control_of,
        "derived_from": subset.derived_from,
    }
    put_row(connection, "layer_subsets", row)
