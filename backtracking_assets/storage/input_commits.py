"""The transactions that write what completions are asked of: problems, and what layer subsets are made of."""

from collections.abc import Sequence

from backtracking_assets.conditions import Composition, problem_set_digest
from backtracking_assets.errors import StorageError
from backtracking_assets.records import Problem
from backtracking_assets.storage.database import DEFAULT_WAIT, writing
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import table_of
from backtracking_assets.storage.statements import insert_rows
from backtracking_assets.storage.tables import TABLES


def write_problem_set(layout: StoreLayout, problems: Sequence[Problem], *, wait: float = DEFAULT_WAIT) -> str:
    """Store a set of problems; its digest.

    Raises:
        StorageError: two problems share an id, or there is none.
    """
    if not problems or len({problem.problem_id for problem in problems}) != len(problems):
        raise StorageError("A problem set needs at least one problem, and an id of its own for each.")
    name = problem_set_digest(problems)
    rows = [
        {"problem_set_digest": name, "problem_id": p.problem_id, "question": p.question, "answer": p.answer}
        for p in problems
    ]
    table = table_of(rows, TABLES["problem_sets"].schema)
    with writing(layout, wait=wait) as connection:
        connection.execute("delete from problem_sets where problem_set_digest = ?", [name])
        insert_rows(connection, "problem_sets", table)
    return name


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
    scales_odds = composition.trigger_tokens is not None
    row = {
        "layer_subset": layer_subset,
        "kind": "trigger_logits" if scales_odds else "components",
        "components": [f"{component}.{layer}" for layer, component in sorted(set(composition.components))],
        "towards": None if scales_odds else "zero" if composition.means_digest is None else "mean",
        "means_digest": composition.means_digest,
        "trigger_tokens": None if composition.trigger_tokens is None else sorted(composition.trigger_tokens),
        "digest": composition.digest,
        "control_of": control_of,
        "derived_from": derived_from,
    }
    table = table_of([row], TABLES["layer_subsets"].schema)
    with writing(layout, wait=wait) as connection:
        connection.execute("delete from layer_subsets where layer_subset = ?", [layer_subset])
        insert_rows(connection, "layer_subsets", table)
    return composition.digest
