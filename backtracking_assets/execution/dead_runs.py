"""Runs whose process is gone: a machine that goes away leaves them started for ever, with their pool slot taken.

Whether a run lives is read from its process, never asked of a code server: those calls fail on healthy runs.
"""

import dagster as dg

from backtracking_assets.execution.run_tags import PID_TAG, is_dead

_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,  # as runs of `sweep` are for a moment, tagged already
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_ENDED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of this host as failed whose process is gone, and free the slots of all runs that have ended; the ids
    of those that were marked.

    A live run is never touched, nor one of another host, nor one that died before it was tagged: for that one,
    `start_timeout_seconds` of the instance is the bound.
    """
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        if is_dead(run.run_id, run.tags):
            instance.report_run_failed(
                run, message=f"Process {run.tags[PID_TAG]} is gone. Its finished chunks are safe; run the cell again."
            )
            ended.append(run.run_id)
    _free_slots_of_ended_runs(instance)
    return ended


def _free_slots_of_ended_runs(instance: dg.DagsterInstance) -> None:
    """Free what a process that died left claimed, also where Dagster itself has marked its run as failed."""
    log = instance.event_log_storage
    claiming = list(log.get_concurrency_run_ids())
    if claiming:
        for run in instance.get_runs(dg.RunsFilter(run_ids=claiming, statuses=_ENDED)):
            log.free_concurrency_slots_for_run(run.run_id)
