"""How fast completions are generated under an intervention, against other ways to generate them on the same machine.

Against the reference study's loop (one prompt at a time), transformers' `generate` at its best batch size and its
continuous batching, against ours without intervention, and against what the device can do at best. Same prompts, same
sampling, same caps. The organism generates a cell of its own experiment; the real shape has random weights, no stop
token and a head that is sharpened until its nucleus is as small as a trained model's.

Run: python benchmarks/generation.py [--shape real --device cuda --dtype bfloat16] [--json] [--profile]
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from generation_peers import Asked, continuously, in_batches, one_at_a_time
from roofline import bound, measured
from shapes import SHAPES, random_model
from spread import MIN_RUNS, Spread, options, spread, tell, timed, where
from transformers import AutoModelForCausalLM

from backtracking_assets.conditions import Intervention
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.experiment_sections import Sampling
from backtracking_assets.models.checkpoint import inspect
from backtracking_assets.models.generation import Request, generate
from backtracking_assets.models.lean_blocks import make_lean
from backtracking_assets.models.loading import load_model, make_prompts
from backtracking_assets.problems import load_problems
from backtracking_assets.records import Component

ROOT = Path(__file__).resolve().parents[1]
SUBSET, SCALE = "attn_no_early", 0.25
ABLATED: tuple[tuple[int, Component], ...] = (
    (15, "attention"),
    (17, "attention"),
    (19, "attention"),
    (27, "attention"),
)
SIX_CONDITIONS_TOKENS = 512
NOT_MEASURED = "not measured: no CUDA device"


@dataclass(frozen=True)
class Subject:
    """A model, once as ours and once as transformers loads it, and what is asked of both."""

    ours: Any
    theirs: Any
    requests: list[Request]
    asked: Asked
    has_trigger: Callable[[list[int]], bool] | None
    """Whether a completion has a strict trigger; None where weights are random."""

    def generate(self, asked: Asked, n: int | None = None) -> list[list[int]]:
        batch = generate(
            self.ours,
            self.requests[: n or len(asked.prompts)],
            asked.sampling,
            asked.intervention,
            stop_ids=asked.stop_ids,
            pad_id=asked.pad_id,
        )
        return [one.token_ids for one in batch.completions]


def organism(n: int) -> Subject:
    experiment = load_experiment(ROOT / "data" / "experiments" / "organism.yaml")
    folder = ROOT / "data" / "organism"
    loaded = load_model(experiment, inspect(folder), "cpu")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    problems = load_problems(experiment)
    prompts = make_prompts(loaded.tokenizer, experiment, problems)
    keys = [(p.problem_id, sample) for p in problems for sample in range(experiment.problems.samples)][:n]
    requests = [Request(problem_id, sample, prompts[problem_id].token_ids) for problem_id, sample in keys]
    intervention = Intervention(components=ABLATED, scale=SCALE)
    asked = Asked(
        [list(one.prompt_ids) for one in requests], experiment.sampling, loaded.stop_ids, loaded.pad_id, intervention
    )
    words = experiment.detection.strict
    return Subject(
        loaded.model,
        theirs,
        requests,
        asked,
        lambda tokens: any(word in loaded.tokenizer.decode(tokens) for word in words),
    )


def random_weights(shape: str, device: str, dtype: torch.dtype, n: int, new_tokens: int, sharpen: float) -> Subject:
    ours = random_model(shape, device, dtype)
    theirs = random_model(shape, device, dtype, attention="sdpa")
    for model in (ours, theirs):
        head: Any = model.get_output_embeddings()
        if head.weight is not model.get_input_embeddings().weight:
            head.weight.data.mul_(sharpen)
    make_lean(ours)
    generator = torch.Generator().manual_seed(1)
    vocabulary = SHAPES[shape]["vocab_size"]
    lengths = torch.randint(100, 200, ((n + 3) // 4,), generator=generator).tolist()
    prompts = [tuple(torch.randint(2, vocabulary, (length,), generator=generator).tolist()) for length in lengths]
    requests = [Request(f"p{index // 4}", index % 4, prompts[index // 4]) for index in range(n)]
    sampling = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=new_tokens, seed=42)
    intervention = Intervention(components=ABLATED, scale=SCALE)
    asked = Asked([list(one.prompt_ids) for one in requests], sampling, frozenset(), 0, intervention)
    return Subject(ours, theirs, requests, asked, None)


@dataclass(frozen=True)
class Ratios:
    """Peer over ours, per completion, pair by pair."""

    wall: Spread
    processor: Spread
    """Of the process's own time: another load of the machine weighs less on it."""
    ours_seconds: Spread
    peer_seconds: Spread


def ratios(ours: Callable[[], object], peer: Callable[[], object], runs: int, wait: Callable[[], None]) -> Ratios:
    def both(run: Callable[[], object]) -> tuple[float, float]:
        began = time.process_time()
        wall = timed(run, wait)
        return wall, time.process_time() - began

    pairs = [(both(ours), both(peer)) for _ in range(runs + 1)][1:]  # the first warms up
    return Ratios(
        spread([b[0] / a[0] for a, b in pairs]),
        spread([b[1] / a[1] for a, b in pairs]),
        spread([a[0] for a, _ in pairs]),
        spread([b[0] for _, b in pairs]),
    )


def times(ratio: Spread, factor: float) -> Spread:
    return Spread(ratio.median * factor, ratio.lowest * factor, ratio.highest * factor, ratio.runs)


def against_loop(subject: Subject, n_loop: int, runs: int, wait: Callable[[], None]) -> dict[str, Any]:
    """The loop makes every k-th of the completions, and times are compared per completion."""
    asked, n = subject.asked, len(subject.asked.prompts)
    some = Asked(
        asked.prompts[:: n // n_loop][:n_loop], asked.sampling, asked.stop_ids, asked.pad_id, asked.intervention
    )
    found = ratios(lambda: subject.generate(asked), lambda: one_at_a_time(subject.theirs, some), runs, wait)
    factor = n / len(some.prompts)
    return {
        "ratio": times(found.wall, factor),
        "processor_ratio": times(found.processor, factor),
        "ours_seconds": found.ours_seconds,
        "loop_seconds": found.peer_seconds,
        "loop_completions": len(some.prompts),
    }


def against_generate(subject: Subject, sizes: Sequence[int], runs: int, wait: Callable[[], None]) -> dict[str, Any]:
    asked = subject.asked
    tried = {size: timed(lambda size=size: in_batches(subject.theirs, asked, size), wait) for size in sizes}
    best = min(tried, key=lambda size: tried[size])
    made: dict[str, list[list[int]]] = {}

    def ours() -> None:
        made["ours"] = subject.generate(asked)

    def peer() -> None:
        made["theirs"] = in_batches(subject.theirs, asked, best)

    found = ratios(ours, peer, runs, wait)
    return {
        "ratio": found.wall,
        "processor_ratio": found.processor,
        "ours_seconds": found.ours_seconds,
        "peer_seconds": found.peer_seconds,
        "batch_sizes_seconds": tried,
        "best_batch": best,
        "tokens_per_second": spread([sum(map(len, made["ours"])) / found.ours_seconds.median]),
        "outputs": alike(made["ours"], made["theirs"], subject.has_trigger),
    }


def alike(ours: list[list[int]], theirs: list[list[int]], has_trigger: Any) -> dict[str, Any]:
    """Mean lengths and trigger rates of both, each with the standard error of its difference.

    Completions of one problem are taken as independent, which makes the errors a little too small.
    """

    def difference(one: list[float], other: list[float]) -> dict[str, float]:
        a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
        error = float((a.var() / len(a) + b.var() / len(b)).sqrt())
        return {"ours": float(a.mean()), "theirs": float(b.mean()), "standard_error": error}

    found = {"length": difference([float(len(row)) for row in ours], [float(len(row)) for row in theirs])}
    if has_trigger is not None:
        rates = ([float(has_trigger(row)) for row in rows] for rows in (ours, theirs))
        found["trigger_rate"] = difference(*rates)
    return found


def greedy_agreement(subject: Subject, n: int) -> dict[str, int]:
    """Completions that both decode to the same tokens at temperature 0."""
    sampling = subject.asked.sampling.model_copy(update={"temperature": 0.0})
    asked = Asked(
        subject.asked.prompts[:n],
        sampling,
        subject.asked.stop_ids,
        subject.asked.pad_id,
        subject.asked.intervention,
    )
    pairs = zip(subject.generate(asked, n), one_at_a_time(subject.theirs, asked), strict=True)
    return {"equal": sum(a == b for a, b in pairs), "of": n}


def cost_of_intervention(subject: Subject, new_tokens: int, runs: int, wait: Callable[[], None]) -> dict[str, Any]:
    """With against without, both with every row open to the last step: the same kernels, and the hooks."""
    sampling = subject.asked.sampling.model_copy(update={"max_new_tokens": new_tokens})
    with_it = Asked(subject.asked.prompts, sampling, frozenset(), subject.asked.pad_id, subject.asked.intervention)
    without = Asked(subject.asked.prompts, sampling, frozenset(), subject.asked.pad_id, None)
    found = ratios(lambda: subject.generate(without), lambda: subject.generate(with_it), runs, wait)
    return {"ratio": found.wall, "processor_ratio": found.processor, "new_tokens": new_tokens}


def on_device(subject: Subject, device: str, dtype: torch.dtype, runs: int, load: Callable[[], Any]) -> dict[str, Any]:
    """Continuous batching, the roofline, and six conditions with loading: what is worth measuring on a GPU alone."""
    wait = torch.cuda.synchronize
    found: dict[str, Any] = {}
    continuous = ratios(
        lambda: subject.generate(subject.asked), lambda: continuously(subject.theirs, subject.asked), runs, wait
    )
    found["against_continuous_batching"] = {
        "ratio": continuous.wall,
        "ours_seconds": continuous.ours_seconds,
        "peer_seconds": continuous.peer_seconds,
    }
    limits = measured(device, dtype)
    made = [len(row) for row in subject.generate(subject.asked)]
    least = bound(subject.ours, [len(prompt) for prompt in subject.asked.prompts], made, limits)
    found["roofline"] = {
        "share": spread([least / timed(lambda: subject.generate(subject.asked), wait) for _ in range(runs)]),
        "bound_seconds": least,
        "copy_bytes_per_second": limits.bytes_per_second,
        "matrix_flops_per_second": limits.flops_per_second,
    }
    sampling = subject.asked.sampling.model_copy(update={"max_new_tokens": SIX_CONDITIONS_TOKENS})

    def six() -> None:
        model = load()
        for scale in (None, 0.0, 0.25, 0.5, 0.75, 0.9):
            intervention = None if scale is None else Intervention(components=ABLATED, scale=scale)
            generate(model, subject.requests, sampling, intervention, stop_ids=frozenset(), pad_id=0)

    found["six_conditions_seconds"] = spread([timed(six, wait)])
    return found


def profile(subject: Subject) -> str:
    """Where the time of one run goes, by operation."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    cuda = subject.ours.device.type == "cuda"
    subject.generate(subject.asked)
    with profiler(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        subject.generate(subject.asked)
    order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    return seen.key_averages().table(sort_by=order, row_limit=24, max_name_column_width=48)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="organism")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--completions", type=int, default=480)
    parser.add_argument("--loop-completions", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[60, 120, 240, 480])
    parser.add_argument("--new-tokens", type=int, default=512, help="of random weights")
    parser.add_argument("--fixed-tokens", type=int, default=32, help="of the comparison with no intervention")
    parser.add_argument("--sharpen", type=float, default=6.0, help="factor of the head of random weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="print where the time goes, and measure nothing else")
    asked = parser.parse_args()
    dtype, cuda, n = getattr(torch, asked.dtype), asked.device.startswith("cuda"), asked.completions
    wait = torch.cuda.synchronize if cuda else lambda: None
    if asked.shape == "organism":
        subject = organism(n)
    else:
        subject = random_weights(asked.shape, asked.device, dtype, n, asked.new_tokens, asked.sharpen)
    torch.set_num_threads(asked.threads)
    if asked.profile:
        print(profile(subject))
        return
    runs = max(asked.runs, MIN_RUNS)
    sizes = sorted({min(size, n) for size in asked.batches})
    found: dict[str, Any] = {
        **where(asked.device),
        "shape": asked.shape,
        "dtype": asked.dtype,
        "threads": asked.threads,
        "completions": n,
        "intervention": f"{SUBSET} x {SCALE}",
        "greedy": greedy_agreement(subject, min(16, n)),
        "against_loop": against_loop(subject, min(asked.loop_completions, n), runs, wait),
        "against_generate": against_generate(subject, sizes, runs, wait),
        "cost_of_intervention": cost_of_intervention(subject, asked.fixed_tokens, runs, wait),
    }

    def load() -> Any:
        model = random_model(asked.shape, asked.device, dtype)
        make_lean(model)
        return model

    if cuda:
        found["gpu_only"] = on_device(subject, asked.device, dtype, runs, load)
    else:
        found["gpu_only"] = NOT_MEASURED
    tell(found, _sentences(found), as_json=asked.json)


def _sentences(found: dict[str, Any]) -> list[str]:
    loop, batch, cost = found["against_loop"], found["against_generate"], found["cost_of_intervention"]
    sentences = [
        f"{found['shape']}, {found['dtype']}, {found['threads']} thread(s), {found['completions']} completions of "
        f"{found['intervention']}, {found['device'] if 'device' in found else found['cpu']}:",
        f"one prompt at a time ({loop['loop_completions']} of the completions) / ours, per completion: "
        f"{loop['ratio']}; processor time {loop['processor_ratio']}.",
        f"generate at its best batch size, {batch['best_batch']} / ours: {batch['ratio']}; processor time "
        f"{batch['processor_ratio']}. Ours takes {batch['ours_seconds']} s.",
        f"with / without intervention, {cost['new_tokens']} tokens each: {cost['ratio']}; processor time "
        f"{cost['processor_ratio']}.",
        f"Greedy: {found['greedy']['equal']} of {found['greedy']['of']} completions equal token by token.",
    ]
    for name, both in batch["outputs"].items():
        sentences.append(
            f"{name}: ours {both['ours']:.3f}, generate {both['theirs']:.3f}, "
            f"standard error of the difference {both['standard_error']:.3f}."
        )
    gpu = found["gpu_only"]
    if isinstance(gpu, str):
        return [*sentences, f"Continuous batching, roofline, six conditions: {gpu}."]
    roof, continuous = gpu["roofline"], gpu["against_continuous_batching"]
    return [
        *sentences,
        f"continuous batching / ours: {continuous['ratio']}.",
        f"share of the roofline: {roof['share']} (bound {roof['bound_seconds']:.3g} s).",
        f"six conditions, loading included: {gpu['six_conditions_seconds'].median:.1f} s.",
    ]


if __name__ == "__main__":
    main()
