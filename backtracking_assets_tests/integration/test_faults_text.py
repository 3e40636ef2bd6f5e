"""Completions of 10 MB, of control characters, broken code points, escape sequences and HTML, from the journal to the
page and the terminal: the tokens stay exact, the text does no harm, and nothing takes for ever."""

import html.parser
import json
import resource
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from backtracking_assets.assets.open_experiment import OpenExperiment
from backtracking_assets.assets.page_files import report_path
from backtracking_assets.assets.presentation import inline_md
from backtracking_assets.records import COMPLETIONS, Cell
from backtracking_assets.storage import queries
from backtracking_assets.storage.archive import read_archive
from backtracking_assets.storage.journal import finish_chunk, plan_chunks
from backtracking_assets.storage.rows import table_of
from backtracking_assets_tests.integration.processes import backtracking
from backtracking_assets_tests.integration.studies import Study, make_study, run_cell

CELL = Cell("attn_1", 1.0)
MEGABYTE = 10**6
Nasty = tuple[Study, dg.ExecuteInProcessResult]
HTML = "</pre><script>alert(1)</script><img src=x onerror=alert(1)><!-- ]]> Wait, {{ 7*7 }} {% raw %}"
ESCAPES = "\x1b[2J\x1b[31mred\x1b]0;title\x07\x1b]8;;http://evil.example\x1b\\link\x9b5A\r\x08 Wait"
CONTROLS = "".join(map(chr, range(32))) + "\x7f\x85\u202e\u2066\u200b\ufeff\u2028\u2029"
BROKEN = "a\ud800b\udfffc\U0010ffff\ufffe"
MARKDOWN = "![x](http://evil.example/x.png)\n# title\n<b>bold</b>\n```\n\n    code\n| a | b |\n---"


def _texts() -> dict[str, str]:
    return {
        "html": HTML * 50,
        "escapes": ESCAPES * 50,
        "controls": CONTROLS * 50 + BROKEN,
        "markdown": MARKDOWN,
        "long": ("Wait, " + "x" * 93 + " ") * (10 * MEGABYTE // 100),
        "digits": "9" * (10 * MEGABYTE),
    }


def _row(opened: OpenExperiment, chunk_id: str, key: tuple[str, int], text: str) -> dict[str, object]:
    from backtracking_assets.assets.loaded import prompts

    n_tokens = min(len(text), 100_000)
    return {
        "fingerprint": opened.condition(CELL).fingerprint,
        "problem_id": key[0],
        "sample_id": key[1],
        "prompt_sha256": prompts(opened)[key[0]].sha256,
        "text": text,
        "token_ids": [(7 * place) % 2**31 for place in range(n_tokens)],
        "token_starts": [place * len(text) // n_tokens for place in range(n_tokens)],
        "n_prompt_tokens": 3,
        "n_tokens": n_tokens,
        "finish_reason": "eos",
        "n_firings": 0,
        "chunk_id": chunk_id,
        "chunk_seconds": 1.0,
        "batch_rows": 4,
        "device": "cpu (made up)",
        "run_id": "made up",
        "generated_at": datetime(2026, 1, 2, tzinfo=UTC),
    }


@pytest.fixture(scope="module")
def nasty(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Iterator[tuple[Study, dg.ExecuteInProcessResult]]:
    """A cell whose six completions are these texts, taken from the journal through all four assets."""
    study = make_study(tmp_path_factory.mktemp("nasty") / "study", tiny_checkpoint)
    study.problems.write_text(
        "\n".join(
            json.dumps({"id": f"<i>{n}</i>\x1b[31m*", "question": f"{HTML} {n}", "answer_value": "1"}) for n in range(5)
        ),
        encoding="utf-8",
    )
    with study.active(), dg.DagsterInstance.ephemeral() as instance:
        experiment = study.experiment(plan=[{"layer_subsets": ["attn_1"], "scales": [1.0]}])
        opened = OpenExperiment(experiment)
        opened.layout.prepare()
        fingerprint = opened.condition(CELL).fingerprint
        texts = dict(zip(opened.keys(), _texts().values(), strict=True))
        for chunk in plan_chunks(opened.layout, fingerprint, opened.keys(), (), 4):
            rows = [_row(opened, chunk.chunk_id, key, texts[key]) for key in chunk.keys]
            finish_chunk(opened.layout, fingerprint, chunk, table_of(rows, COMPLETIONS))
        yield study, run_cell(instance, experiment, CELL)


def test_the_cell_is_made_and_its_tokens_are_exact(nasty: Nasty) -> None:
    study, result = nasty
    assert result.success, [event.step_failure_data for event in result.all_events if event.is_step_failure]
    opened = study_opened(study)
    fingerprint = opened.condition(CELL).fingerprint
    stored = queries.completions(study.layout, fingerprint)
    assert stored.equals(read_archive(study.layout, fingerprint))
    wanted = dict(zip(opened.keys(), _texts().values(), strict=True))
    for row in stored.to_pylist():
        text = wanted[row["problem_id"], row["sample_id"]]
        assert row["token_ids"] == [(7 * place) % 2**31 for place in range(row["n_tokens"])]
        assert len(row["text"]) == len(text)  # one replacement for one broken code point
        assert row["text"] == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    found = queries.detections(study.layout, fingerprint, opened.rules_digest)
    assert sorted(found["n_strict"].to_pylist())[-1] == 100_000


def study_opened(study: Study) -> OpenExperiment:
    with study.active():
        return study.opened(plan=[{"layer_subsets": ["attn_1"], "scales": [1.0]}])


class _Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.handlers: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.handlers |= {name for name, _ in attrs if name.startswith("on")}


def test_the_page_shows_them_and_nothing_runs(nasty: Nasty) -> None:
    study, _ = nasty
    path = report_path(study_opened(study), CELL)
    page = path.read_text(encoding="utf-8")
    assert len(page) < 2 * MEGABYTE
    parsed = _Tags()
    parsed.feed(page)
    assert "script" not in parsed.tags
    assert parsed.handlers == set()
    assert "&lt;/pre&gt;&lt;script&gt;" in page
    assert "{{ 7*7 }} {% raw %}" in page  # a template in a text is text
    assert not any(ord(character) < 32 and character not in "\n\t" for character in page)
    assert not set("\x1b\x7f\x85\x9b\u202e\u2066\u200b\ufeff").intersection(page)


def test_what_dagster_shows_is_harmless(nasty: Nasty) -> None:
    _, result = nasty
    (shown,) = result.asset_materializations_for_node("tiny__detections")
    text = shown.metadata["examples"].value
    assert isinstance(text, str)
    assert len(text) < 20_000
    assert not any(ord(character) < 32 and character != "\n" for character in text)
    for line in text.split("\n"):
        # Titles hold no markup of the problem's id; everything else is a code block.
        assert line.startswith("    ") or not set("<`[").intersection(line)


def test_the_terminal_gets_no_escape_sequence(nasty: Nasty, tmp_path: Path) -> None:
    study, _ = nasty
    study_opened(study)
    for command in ("status", "sweep"):
        found = backtracking(command, str(study.file), environment=study.environment, folder=tmp_path)
        assert found.code == 0, found.stderr
        assert not any(ord(c) < 32 and c not in "\n\t" for c in found.stdout + found.stderr)
    # A problem's text that has changed is named by its id, which is as nasty.
    study.problems.write_text(study.problems.read_text(encoding="utf-8").replace("{{ 7", "{{ 8"), encoding="utf-8")
    found = backtracking("sweep", str(study.file), environment=study.environment, folder=tmp_path)
    assert found.code == 1
    assert "has another text now" in found.stdout
    assert not any(ord(c) < 32 and c not in "\n\t" for c in found.stdout + found.stderr)


def test_memory_stays_bounded(nasty: Nasty) -> None:
    """20 MB of text and 0.6 million tokens, held as Python objects several times over, are far from these 4 GiB."""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # in KiB


@pytest.mark.parametrize("text", [HTML, ESCAPES, CONTROLS, BROKEN, MARKDOWN, "9" * MEGABYTE], ids=str.__len__)
def test_inline_markdown_means_nothing(text: str) -> None:
    shown = inline_md(text)
    assert len(shown) < 5_000
    assert not set("<>`*_[]()!|\\\n\x1b").intersection(shown)
