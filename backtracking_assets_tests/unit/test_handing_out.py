"""Which task the next free worker gets: a condition is begun once, the baseline comes first, no device idles for it."""

from backtracking_assets.cli.handing_out import HandingOut, Task
from backtracking_assets.records import Cell, Subject, Variant

BASELINE, LINKED = Cell("attn", 1.0), Cell("mlp", 1.0)
LOW, HIGH = Cell("attn", 0.0), Cell("mlp", 0.0)


def condition_of(subject: Subject) -> str:
    return "baseline" if isinstance(subject, Cell) and subject.scale == 1.0 else str(subject)


def handing_out(*subjects: Subject, first: str = "generations") -> HandingOut:
    return HandingOut([Task(place, subject, first, "before") for place, subject in enumerate(subjects)], condition_of)


def handed(left: HandingOut, now: float = 0.0) -> Task:
    task = left.next(now)
    assert task is not None
    return task


def test_beside_the_baseline_cells_are_only_generated_and_measured_once_it_is_there() -> None:
    left = handing_out(BASELINE, LINKED, LOW, HIGH)
    baseline, low = handed(left), handed(left)
    assert (baseline.subject, baseline.last) == (BASELINE, None)
    assert (low.subject, low.first, low.last) == (LOW, "generations", "generations")
    assert not left.finished(low, "own mark", failed=False)
    high = handed(left)  # not the rest of LOW, which is shown beside the baseline
    assert (high.subject, high.last) == (HIGH, "generations")
    assert left.next(0) is None
    assert left.n_unfinished == 4
    assert left.finished(baseline, "mark", failed=False)
    assert handed(left).subject == LINKED
    rest = handed(left)
    assert (rest.subject, rest.first, rest.last, rest.mark) == (LOW, "detections", None, "own mark")
    assert left.finished(rest, "mark", failed=False)


def test_what_is_only_read_waits_for_the_baseline() -> None:
    left = handing_out(BASELINE, LOW, first="detections")
    baseline = handed(left)
    assert left.next(0) is None
    left.finished(baseline, "mark", failed=False)
    assert handed(left).subject == LOW


def test_a_condition_is_begun_by_the_first_in_the_plan_also_where_that_one_is_not_free() -> None:
    left = handing_out(BASELINE, LINKED)
    first = handed(left)
    assert left.next(0) is None
    left.busy(first, now=10.0)
    assert left.next(10.1) is None
    assert handed(left, 11.0).subject == BASELINE


def test_a_death_costs_one_more_try_and_no_third() -> None:
    left = handing_out(BASELINE, LOW)
    handed(left)
    half = handed(left)
    assert left.died(half)
    again = handed(left)
    assert (again.subject, again.first, again.last) == (LOW, "generations", "generations")
    assert not left.died(again)
    assert left.n_unfinished == 1
    assert left.next(0) is None


def test_a_failed_baseline_leaves_the_others() -> None:
    left = handing_out(BASELINE, LOW)
    assert left.finished(handed(left), "mark", failed=True)
    assert handed(left).last == "generations"  # never more than that
    assert not left.is_done()


def test_without_a_baseline_to_make_all_are_done_in_order() -> None:
    variants = [Variant("one"), Variant("two")]
    left = handing_out(*variants, first="variant_generations")
    tasks = [handed(left), handed(left)]
    assert [task.subject for task in tasks] == variants
    assert all(task.last is None and left.finished(task, "mark", failed=False) for task in tasks)
    assert left.is_done()
