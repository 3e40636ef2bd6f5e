"""Another model family takes a few lines of an experiment file and no code."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from backtracking_assets.storage import queries
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets_tests.integration.processes import backtracking
from backtracking_assets_tests.tiny import make_checkpoint, write_problems

_TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
_EXPERIMENT = """
name: other
title: Another family
model: {path: llama, dtype: bfloat16, device: cpu, n_layers: 3, round_trip: "Wait, ü!"}
problems: {path: problems.jsonl, count: 3, seed: 1, samples: 2}
prompting: {system: Be brief., chat_template: true, variant: plain, variants: {plain: "Q: {question}"}}
sampling: {temperature: 0.8, top_p: 0.9, max_new_tokens: 8, seed: 0}
layer_subsets: {last: {attention: [2], mlp: [2]}}
scales: [0.5, 1.0]
plan: [{layer_subsets: [targeted]}]
detection: {strict: [Wait]}
statistics: {resamples: 100}
checks: {accuracy_above_shuffled: warn}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """An experiment file beside a random Llama checkpoint that has a chat template."""
    checkpoint = make_checkpoint(tmp_path / "llama", family="llama", n_layers=3)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(checkpoint)
    write_problems(tmp_path / "problems.jsonl")
    file = tmp_path / "other.yaml"
    file.write_text(_EXPERIMENT, encoding="utf-8")
    return file


def test_a_llama_with_a_chat_template_goes_through_the_sweep_in_bf16(experiment: Path, tmp_path: Path) -> None:
    environment = {"BACKTRACKING_HOME": str(tmp_path / "runs"), "DAGSTER_HOME": str(tmp_path / "dagster_home")}
    found = backtracking("sweep", str(experiment), environment=environment, folder=tmp_path)
    assert found.code == 0, found.stdout + found.stderr
    assert "2 cells of 6 completions, 0 done before, 2 to do." in found.stdout
    layout = StoreLayout(tmp_path / "runs" / "other")
    assert layout.reports.joinpath("phase2_report.html").is_file()
    conditions = {row["scale"]: row for row in queries.conditions(layout).to_pylist()}
    assert set(conditions) == {0.5, 1.0}
    assert conditions[0.5]["dtype"] == "bfloat16"
    assert conditions[0.5]["components"] == ["attention.2", "mlp.2"]
    rows = queries.completions(layout, conditions[0.5]["fingerprint"]).to_pylist()
    assert [row["n_firings"] for row in rows] == [2 * (row["n_tokens"] - 1) for row in rows]
    # The prompt is the template's text, one token a byte: system line, question, the assistant's turn.
    texts = {f"p{number}": f"[system] Be brief.\n[user] Q: {number} + {number}\n[assistant] " for number in range(5)}
    assert all(row["n_prompt_tokens"] == len(texts[row["problem_id"]]) for row in rows)
    passed = {(row["scale"], row["name"]): row["passed"] for row in queries.checks(layout).to_pylist()}
    assert all(passed[scale, "identity_at_scale_1"] for scale in conditions)
