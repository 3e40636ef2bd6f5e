"""Cutting a condition's work into chunks of fixed composition."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from backtracking_assets.conditions import digest
from backtracking_assets.storage.rows import Key


@dataclass(frozen=True)
class Chunk:
    """Completions that are batched together and become durable together."""

    chunk_id: str
    keys: tuple[Key, ...]


def chunk_of(fingerprint: str, keys: Iterable[Key]) -> Chunk:
    """The chunk of these completions; its id is a digest of the condition and the keys in their order."""
    fixed = tuple((problem_id, int(sample_id)) for problem_id, sample_id in keys)
    return Chunk(digest([fingerprint, fixed])[:16], fixed)


def cut(fingerprint: str, keys: Sequence[Key], size: int) -> list[Chunk]:
    """The keys as chunks of at most `size`, in order, the samples of one problem in one chunk where they fit.

    Raises:
        ValueError: `size` is below 1, a key is given twice, or a problem's samples do not stand together.
    """
    if size < 1:
        raise ValueError(f"a chunk holds at least one completion; the size is {size}")
    if len(set(keys)) != len(keys):
        raise ValueError("a completion is wanted twice")
    problems = [list(samples) for _, samples in groupby(keys, key=lambda key: key[0])]
    if len({samples[0][0] for samples in problems}) != len(problems):
        raise ValueError("the samples of a problem do not stand together")
    batches: list[list[Key]] = [[]]
    for samples in problems:
        if len(batches[-1]) + len(samples) > size:
            batches.append([])
        for start in range(0, len(samples), size):
            if start:
                batches.append([])
            batches[-1] += samples[start : start + size]
    return [chunk_of(fingerprint, batch) for batch in batches if batch]
