"""The GPU executor: Dagster's in-process executor with a lease on one device around it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg

from backtracking_assets.execution.devices import devices_of, is_cpu, leased_device
from backtracking_assets.execution.run_tags import process_tags
from backtracking_assets.experiment import Experiment

GPU_POOL = "gpu"
"""Pool of the steps that generate; its limit is the number of devices."""


class _LeasingExecutor(dg.Executor):
    """Runs a plan's steps in this process, on a leased device if one of them generates."""

    def __init__(
        self, inner: dg.Executor, experiment: Experiment, locks_dir: Path, import_engine: Callable[[], None]
    ) -> None:
        self._inner = inner
        self._experiment = experiment
        self._locks_dir = locks_dir
        self._import_engine = import_engine

    @property
    def retries(self):
        return self._inner.retries

    def execute(self, plan_context, execution_plan) -> Iterator[dg.DagsterEvent]:
        run, instance, log = plan_context.dagster_run, plan_context.instance, plan_context.log
        steps = [execution_plan.get_step_by_key(key) for key in execution_plan.step_keys_to_execute]
        if not any(step.pool == GPU_POOL for step in steps):
            instance.add_run_tags(run.run_id, process_tags(run.run_id))
            yield from self._inner.execute(plan_context, execution_plan)
            return
        devices = devices_of(self._experiment)
        if is_cpu(devices[0]) and self._experiment.model.device == "auto":
            log.info("No CUDA device is visible to torch: this run generates on the CPU.")

        def waiting(seconds: float) -> None:
            log.info(f"Waiting for one of {', '.join(devices)}, taken by other runs ({seconds:.0f} s so far).")
            # Dagster only notes signals here; a run that someone terminates says so in its status.
            latest = instance.get_run_by_id(run.run_id)
            if latest is not None and latest.status == dg.DagsterRunStatus.CANCELING:
                raise dg.DagsterExecutionInterruptedError("terminated while waiting for a device")

        # Tagged before the wait as well: a run that dies while it waits must be recognizable.
        instance.add_run_tags(run.run_id, process_tags(run.run_id))
        # Before the wait: it takes seconds, in which the run that holds the device may go on.
        self._import_engine()
        with leased_device(devices, self._locks_dir, on_wait=waiting) as device:
            instance.add_run_tags(run.run_id, process_tags(run.run_id, device))
            log.info(f"Generating on {device}.")
            yield from self._inner.execute(plan_context, execution_plan)


def gpu_executor(experiment: Experiment, locks_dir: Path, import_engine: Callable[[], None]) -> dg.ExecutorDefinition:
    """The executor of an experiment's runs.

    Args:
        locks_dir: folder of the device lock files.
        import_engine: imports what generates, before a device is waited for.
    """

    def leasing(init_context: dg.InitExecutorContext) -> dg.Executor:
        create = dg.in_process_executor.executor_creation_fn
        assert create is not None
        return _LeasingExecutor(create(init_context), experiment, locks_dir, import_engine)

    # One process a run: the model is loaded once, and a second process a step costs seconds for nothing.
    return dg.ExecutorDefinition(
        name="gpu_executor",
        description="Runs the steps in one process, on a leased device if one of them generates.",
        config_schema={
            "retries": dg.Field(dg.Selector({"enabled": {}, "disabled": {}}), default_value={"enabled": {}})
        },
        executor_creation_fn=leasing,
    )
