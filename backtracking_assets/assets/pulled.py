"""Bringing up to date what follows from a pull: the database."""

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.storage.archive import archived_condition, archived_fingerprints, archived_keys
from backtracking_assets.storage.commits import commit_condition
from backtracking_assets.storage.queries import completion_keys

PULL_RUN_ID = "pull"
"""What stands as the run that stored a condition's row where a pull did."""


def after_pull(opened: OpenExperiment) -> int:
    """Have the database hold every archived condition; how many had to be stored.

    What is stored already is left alone, so a pull that was cut off before this is made up for by the next one.

    Raises:
        StorageError: the database cannot be written. The archives stay, and the next pull or sweep stores them.
    """
    stored = 0
    for fingerprint in archived_fingerprints(opened.layout):
        if archived_keys(opened.layout, fingerprint) != completion_keys(opened.layout, fingerprint):
            commit_condition(opened.layout, archived_condition(opened.layout, fingerprint), run_id=PULL_RUN_ID)
            stored += 1
    return stored
