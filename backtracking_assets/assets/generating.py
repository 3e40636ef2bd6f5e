"""Making a condition's completions: what is there is linked, what is missing is generated, nothing is done twice."""

from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from backtracking_assets.assets.checkpoint_watch import refuse_changed_checkpoint
from backtracking_assets.assets.chunk_making import completion_rows, generate_chunk
from backtracking_assets.assets.loaded import forget_models, loaded_model, prompts
from backtracking_assets.assets.memory_planning import plan_of_chunk, too_little_free
from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.progress import OnProgress, Progress
from backtracking_assets.assets.stored_cells import StoredCell, linked_cell
from backtracking_assets.conditions import Condition
from backtracking_assets.errors import BacktrackingError, ChangedCheckpointError, HeldDatabaseError, ProblemFileError
from backtracking_assets.execution.devices import device_name, lease_of
from backtracking_assets.fault_points import reached
from backtracking_assets.layer_subsets import DerivedSubset
from backtracking_assets.models.memory_plan import MemoryPlan
from backtracking_assets.records import COMPLETIONS, Cell, Subject
from backtracking_assets.storage.archive import archived_keys, compact, verified_archive
from backtracking_assets.storage.chunks import Chunk
from backtracking_assets.storage.commits import commit_condition, link_cell
from backtracking_assets.storage.database import DEFAULT_WAIT, kept_open
from backtracking_assets.storage.input_commits import Inputs, SubsetRow
from backtracking_assets.storage.journal import clear_journal, finish_chunk, finished_chunks, plan_chunks
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.locks import generation_lock
from backtracking_assets.storage.parquet import DamagedFileError
from backtracking_assets.storage.queries import completion_keys
from backtracking_assets.storage.restoring import restore_archive
from backtracking_assets.storage.rows import Key, keys_of, table_of

if TYPE_CHECKING:
    from backtracking_assets.models.generation import OnStep

Log = Callable[[str], None]

_SHORT_WAIT = 1.0
"""Seconds that a look into the database may take before anything is generated."""

_ASKED = ("problem_id", "prompt_sha256")


@dataclass(frozen=True)
class Generation:
    """What it took to have the completions of a cell or a variant."""

    condition: Condition
    n_completions: int
    n_generated: int
    device: str | None
    """Where completions were generated now; None where all were there."""
    stored: StoredCell | None = None
    """The cell, with its completions read; None where they were made for something else."""

    @property
    def linked(self) -> bool:
        return self.n_generated == 0


def ensure_completions(
    opened: OpenExperiment,
    cell: Cell,
    *,
    run_id: str,
    log: Log,
    on_progress: OnProgress = lambda progress: None,
) -> Generation:
    """Have all completions of a cell in the archive and the database, and point the cell to them.

    Raises:
        BacktrackingError: see `ensure_condition`.
    """
    condition, linked = opened.condition(cell), list[StoredCell]()

    def link() -> None:
        link_to_completions(opened, cell, condition.fingerprint, run_id=run_id)
        reached("cell linked", str(cell))
        linked.append(linked_cell(opened, cell))
        _ = linked[0].completions

    made = ensure_condition(opened, condition, cell, run_id=run_id, log=log, on_progress=on_progress, link=link)
    return replace(made, stored=linked[0])


def ensure_condition(
    opened: OpenExperiment,
    condition: Condition,
    subject: Subject,
    *,
    run_id: str,
    log: Log,
    on_progress: OnProgress = lambda progress: None,
    link: Callable[[], None] | None = None,
) -> Generation:
    """Have a condition's completions of the experiment's problems and samples in the archive and the database.

    Another process that works on the same condition is waited for. Each finished chunk is durable before the next one
    starts, so an interruption costs at most the chunk in flight. The condition may hold more completions, as the
    baseline does where phase 1 asks more problems than the sweep; they stay.

    Args:
        subject: what the completions are made for, as progress names it.
        link: points the subject to them in the database, which stays open meanwhile.

    Raises:
        ChangedCheckpointError: the checkpoint has changed since the sweep or the cell began.
        BacktrackingError: a source is unfit, no device is to be had, or the store cannot be written.
    """
    opened.layout.prepare()
    layout, fingerprint = opened.layout, condition.fingerprint

    def waiting_for_condition(seconds: float) -> None:
        log(f"Another process generates this condition; waiting ({seconds:.0f} s so far).")

    with ExitStack() as stack:
        # Device first, condition second, always: two processes that take them in opposite orders would wait for ever.
        # Whether anything is missing is looked up again once the condition is ours.
        device: str | None = None
        if not _seen(layout, fingerprint).issuperset(opened.keys()):
            device = stack.enter_context(lease_of(opened.experiment, log))
        stack.enter_context(generation_lock(layout, fingerprint, waiting_for_condition))
        was_archived = layout.archive_of(fingerprint).exists()
        _check_prompts(opened, fingerprint)
        if not layout.archive_of(fingerprint).exists():
            _restore(opened, condition, damaged=was_archived, log=log)
        archived = _archived(layout, fingerprint)
        if device is None and not archived.issuperset(opened.keys()):
            # Damage that shows only where every byte is read. The device comes first, so all is done again with one.
            stack.close()
            return ensure_condition(
                opened, condition, subject, run_id=run_id, log=log, on_progress=on_progress, link=link
            )
        work = _Work(opened, subject, condition, run_id, log, on_progress)
        if device is not None:
            work.generate_missing(device, archived)
            archived = _archived(layout, fingerprint)
        # Where the archive was made anew, the database holds the same keys with other rows: chunks that are still there
        # say that what was made of them was never committed.
        uncommitted = layout.journal_of(fingerprint).exists()
        with nullcontext() if link is None else kept_open(layout):
            if uncommitted or archived != completion_keys(layout, fingerprint):
                commit_condition(layout, condition, run_id=run_id)
            # Only now, with archive and database both holding the rows, may the chunks go.
            clear_journal(layout, fingerprint)
            reached("journal cleared", fingerprint)
            if link is not None:
                link()
    made_on = device_name(device) if device is not None and work.generated else None
    return Generation(condition, len(opened.keys()), work.generated, made_on)


def _restore(opened: OpenExperiment, condition: Condition, *, damaged: bool, log: Log) -> None:
    """Have the archive made anew from the database where that has the completions. Under the generation lock."""
    prompt_sha256 = {problem_id: prompt.sha256 for problem_id, prompt in prompts(opened).items()}
    # A condition without an archive is almost always a new one: it does not wait for a database that someone holds.
    wait = DEFAULT_WAIT if damaged else _SHORT_WAIT
    try:
        restored = restore_archive(opened.layout, condition, opened.keys(), prompt_sha256, wait=wait)
    except HeldDatabaseError:
        if damaged:
            raise
        return
    if restored is not None:
        log(f"The archive of this condition was {'damaged' if damaged else 'gone'}; {restored}.")
    elif damaged:
        log("The archive of this condition was damaged and is set aside; the database has no completions of it.")


def _seen(layout: StoreLayout, fingerprint: str) -> set[Key]:
    """Keys that seem to be archived, looked up without the lock: nothing may be set aside here."""
    try:
        return archived_keys(layout, fingerprint)
    except DamagedFileError:
        return set()


def _archived(layout: StoreLayout, fingerprint: str) -> set[Key]:
    """Keys of the archived completions, every byte checked. The caller holds the generation lock."""
    archive = verified_archive(layout, fingerprint)
    return set() if archive is None else set(keys_of(archive))


@dataclass
class _Work:
    """One process's work on one condition, under its generation lock."""

    opened: OpenExperiment
    subject: Subject
    condition: Condition
    run_id: str
    log: Log
    on_progress: OnProgress
    generated: int = 0
    tokens: int = 0
    seconds: float = 0.0
    asking: OpenExperiment = field(init=False)
    """Whose problems the chunks at work are of."""

    def __post_init__(self) -> None:
        self.asking = self.opened

    def generate_missing(self, device: str, present: set[Key]) -> None:
        """Generate what is missing from `present`, the archived keys, chunk by chunk; then archive all of it."""
        layout, fingerprint = self.opened.layout, self.condition.fingerprint
        if present.issuperset(self.opened.keys()):
            return
        chunks = self._chunks(present)
        finished = finished_chunks(layout, fingerprint)
        missing = [chunk for chunk in chunks if chunk.chunk_id not in finished]
        if finished:
            self.log(f"{len(finished)} chunks were finished before; {len(missing)} are generated now.")
        # Before anything is generated: what does not fit, or is longer than the model knows, is refused here.
        plans = {chunk.chunk_id: plan_of_chunk(self.asking, device, chunk.keys) for chunk in missing}
        if missing:
            self._check_devices(device_name(device), finished.values())
            self._say_memory(plans.values())
        total = len(present) + sum(len(chunk.keys) for chunk in chunks)
        done = total - sum(len(chunk.keys) for chunk in missing)
        self._report(done, total)
        for chunk in missing:
            loaded = loaded_model(self.opened, device)
            before = Progress(self.subject, done, total, self.generated, self.tokens, self.seconds)
            reached("chunk started", chunk.chunk_id)
            batch = generate_chunk(
                self.asking, loaded, self.condition, chunk, plans[chunk.chunk_id], self._on_step(before), self.log
            )
            rows = completion_rows(self.asking, loaded, self.condition, chunk, batch)
            self._check_weights()
            reached("chunk generated", chunk.chunk_id)
            made_by = {"device": device_name(device), "run_id": self.run_id, "generated_at": datetime.now(UTC)}
            finish_chunk(layout, fingerprint, chunk, table_of([{**row, **made_by} for row in rows], COMPLETIONS))
            done += len(chunk.keys)
            self.generated += len(chunk.keys)
            self.tokens += sum(len(completion.token_ids) for completion in batch.completions)
            self.seconds += batch.seconds
            self._report(done, total)
        compact(layout, self.condition)

    def _chunks(self, present: set[Key]) -> list[Chunk]:
        layout, fingerprint = self.opened.layout, self.condition.fingerprint
        size = self.opened.experiment.generation.completions_per_chunk
        chunks = plan_chunks(layout, fingerprint, self.opened.keys(), present, size)
        planned = {problem_id for chunk in chunks for problem_id, _ in chunk.keys}
        # A chunk that phase 1 has planned may hold problems that the sweep does not use. It is made as it was planned.
        asking = next((one for one in (self.opened, *_wider(self.opened)) if planned <= one.problems.keys()), None)
        if asking is not None:
            self.asking = asking
            return chunks
        # The plan was made for problems that are no longer asked: its chunks cannot be made as they were planned.
        self.log("The problems have changed since the chunks were planned; planning anew around the finished ones.")
        layout.plan_of(fingerprint).unlink()
        return plan_chunks(layout, fingerprint, self.opened.keys(), present, size)

    def _say_memory(self, plans: Collection[MemoryPlan]) -> None:
        """Log the plan of the largest chunk, and whether other programs hold what it takes."""
        largest = max(plans, key=lambda plan: plan.n_bytes(plan.rows))
        self.log(f"{largest}.")
        if (warning := too_little_free(largest)) is not None:
            self.log(warning)

    def _check_weights(self) -> None:
        """Refuse a chunk that may be of other weights than its condition names."""
        try:
            refuse_changed_checkpoint(self.opened.checkpoint, self.opened.layout.root)
        except ChangedCheckpointError:
            # A model that is mapped to the file follows it, and is not the one that it is remembered as.
            forget_models()
            raise

    def _check_devices(self, name: str, finished: Iterable[pa.Table]) -> None:
        """Tell, or refuse, that this condition would hold completions of several kinds of device."""
        archive = verified_archive(self.opened.layout, self.condition.fingerprint)
        tables = [*finished, *([] if archive is None else [archive])]
        others = sorted({device for table in tables for device in table["device"].to_pylist()} - {name})
        if not others:
            return
        made = f"Condition {self.condition.fingerprint[:12]} holds completions made on {' and '.join(others)}"
        if self.opened.experiment.generation.mixed_devices == "refuse":
            raise BacktrackingError(
                f"{made}, and this run would add some made on {name}; generation.mixed_devices is refuse, so nothing "
                f"was generated and what is there is safe: run the same command on {others[0]}, or set "
                f"generation.mixed_devices: allow in {self.opened.experiment.source}."
            )
        self.log(f"{made}; those that are missing are made on {name}, whose last bits may differ.")

    def _on_step(self, before: Progress) -> "OnStep":
        def on_step(step: int, n_open: int) -> None:
            self.on_progress(replace(before, step=step, n_open=n_open))

        return on_step

    def _report(self, done: int, total: int) -> None:
        self.on_progress(Progress(self.subject, done, total, self.generated, self.tokens, self.seconds))


def _wider(opened: OpenExperiment) -> list[OpenExperiment]:
    """The experiment on phase 1's problems, where there is a phase 1; its prompts of the same problems are the same."""
    return [] if opened.experiment.phase1 is None else [opened.for_variant(opened.experiment.prompting.variant)]


def _check_prompts(opened: OpenExperiment, fingerprint: str) -> None:
    """Refuse completions that answer another prompt than the one their problem has now.

    Raises:
        ProblemFileError: a problem kept its id and changed its text.
    """
    layout, prompt_of = opened.layout, prompts(opened)
    archive = verified_archive(layout, fingerprint)
    made = [(layout.journal_of(fingerprint), table) for table in finished_chunks(layout, fingerprint).values()]
    if archive is not None:
        made.insert(0, (layout.archive_of(fingerprint), archive))
    for path, table in made:
        for problem_id, prompt_sha256 in zip(*(table[name].to_pylist() for name in _ASKED), strict=True):
            if problem_id in prompt_of and prompt_of[problem_id].sha256 != prompt_sha256:
                raise ProblemFileError(
                    f"Problem {problem_id!r} has another text now than when its completions were made; give the "
                    f"changed problem a new id, or remove {path} to generate it anew."
                )


def link_to_completions(opened: OpenExperiment, subject: Subject, fingerprint: str, *, run_id: str) -> int:
    """Store the problems of a cell or a variant and a cell's layers, and point it to its condition; its completions.

    Raises:
        StorageError: see `commits.link_cell`.
    """
    row: SubsetRow | None = None
    if isinstance(subject, Cell):
        subset = opened.subsets[subject.layer_subset]
        row = SubsetRow(
            subject.layer_subset,
            opened.composition(subject.layer_subset),
            control_of=opened.experiment.control_of(subject.layer_subset),
            derived_from=subset.source if isinstance(subset, DerivedSubset) else None,
        )
    return link_cell(
        opened.layout,
        subject,
        fingerprint=fingerprint,
        problem_set_digest=opened.problem_set_digest,
        n_samples=opened.experiment.problems.samples,
        run_id=run_id,
        inputs=Inputs(tuple(opened.problems.values()), row),
    )
