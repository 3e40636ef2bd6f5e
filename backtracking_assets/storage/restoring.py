"""Making a lost or damaged archive anew from the database's rows, so that what is there is not generated again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from backtracking_assets.conditions import Condition
from backtracking_assets.records import decode_steps
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import read_archive, write_archive
from backtracking_assets.storage.chunks import chunk_of
from backtracking_assets.storage.database import DEFAULT_WAIT
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.rows import Key, keys_of


@dataclass(frozen=True)
class Restored:
    """What of a condition's rows in the database became its archive."""

    n_verified: int
    """Completions whose chunk has the id that its keys give."""
    n_unverified: int
    """Completions whose chunk asks problems that are not asked now, so that the order of its keys is not known."""
    n_left_out: int
    """Completions that contradict themselves or their chunk."""

    def __str__(self) -> str:
        text = f"{self.n_verified + self.n_unverified} completions were taken from the database"
        text += f": {self.n_verified} verified against the keys of their chunks"
        if self.n_unverified:
            text += f", {self.n_unverified} of problems that are not asked now verified row by row alone"
        return text + (f"; {self.n_left_out} are not whole and were left out" if self.n_left_out else "")


def restore_archive(
    layout: StoreLayout,
    condition: Condition,
    asked: Sequence[Key],
    prompt_sha256: Mapping[str, str],
    *,
    wait: float = DEFAULT_WAIT,
) -> Restored | None:
    """Make a condition's archive from the database; None where the database has nothing to make it from.

    For a condition without a usable archive, under its generation lock. Nothing is taken where a prompt has changed:
    then the archive was removed in order to generate the condition anew.

    Args:
        asked: the keys that are asked now, in the order in which they are generated.
        prompt_sha256: digest of each problem's prompt as it is now, by problem id.

    Raises:
        HeldDatabaseError: another process holds the database for longer than `wait` seconds.
        StorageError: the database cannot be read, or the archive cannot be written.
    """
    fingerprint = condition.fingerprint
    if queries.condition(layout, fingerprint, wait=wait) != condition:
        return None
    rows = queries.completions(layout, fingerprint, wait=wait)
    prompts = zip(rows["problem_id"].to_pylist(), rows["prompt_sha256"].to_pylist(), strict=True)
    if rows.num_rows == 0 or any(prompt_sha256.get(problem, made) != made for problem, made in prompts):
        return None
    verified, unverified = _whole_rows(rows, fingerprint, asked)
    kept = sorted(verified + unverified)
    if kept:
        write_archive(layout, condition, rows.take(kept))
        read_archive(layout, fingerprint)
    return Restored(len(verified), len(unverified), rows.num_rows - len(kept))


def _whole_rows(rows: pa.Table, fingerprint: str, asked: Sequence[Key]) -> tuple[list[int], list[int]]:
    """Numbers of the rows that belong to a chunk of these keys, and of those of which that cannot be told."""
    order = {key: place for place, key in enumerate(asked)}
    keys = keys_of(rows)
    chunks: dict[str, list[int]] = {}
    for row, chunk_id in enumerate(rows["chunk_id"].to_pylist()):
        chunks.setdefault(chunk_id, []).append(row)
    consistent = _consistent(rows)
    verified: list[int] = []
    unverified: list[int] = []
    for chunk_id, members in chunks.items():
        if not all(consistent[row] for row in members):
            continue
        if all(keys[row] in order for row in members):
            in_order = sorted((keys[row] for row in members), key=order.__getitem__)
            if chunk_of(fingerprint, in_order).chunk_id == chunk_id:
                verified += members
        else:
            unverified += members
    return verified, unverified


def _consistent(rows: pa.Table) -> list[bool]:
    """Of each row, whether its lengths, its offsets into the text and its firings fit together."""
    names = ("text", "token_ids", "token_starts", "n_tokens", "finish_reason", "n_firings")
    found = []
    for text, ids, starts, n_tokens, reason, firings in zip(*(rows[name].to_pylist() for name in names), strict=True):
        steps = decode_steps(n_tokens, reason)
        found.append(
            len(ids) == len(starts) == n_tokens
            and starts == sorted(starts)
            and (not starts or 0 <= starts[0] <= starts[-1] <= len(text))
            and (firings == 0 if steps == 0 else firings % steps == 0)
        )
    return found
