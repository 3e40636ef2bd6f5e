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


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Mark runs of this host as failed whose process is gone, and free their slots; their ids.

    A live run is never touched, nor one of another host, nor one that died before it was tagged: for that one,
    `start_timeout_seconds` of the instance is the bound.
    """
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        if is_dead(run.run_id, run.tags):
            instance.report_run_failed(
                run, message=f"Process {run.tags[PID_TAG]} is gone. Its finished chunks are safe; run the cell again."
            )
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
            ended.append(run.run_id)
    return ended
