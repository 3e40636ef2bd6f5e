"""Files from outside, experiment, problem, plan, chunk and archive files, load or are refused in bounded time.

Whatever they hold, no other exception than this project's comes out, and none of their tags is executed.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backtracking_assets.conditions import digest
from backtracking_assets.errors import ExperimentError, ProblemFileError
from backtracking_assets.experiment_file import load_experiment
from backtracking_assets.problems import load_problems
from backtracking_assets.records import COMPLETIONS
from backtracking_assets.storage.archive import (
    archived_condition,
    archived_keys,
    read_archive,
    verified_archive,
)
from backtracking_assets.storage.journal import (
    finish_chunk,
    finished_chunks,
    finished_keys,
    journal_progress,
    plan_chunks,
)
from backtracking_assets.storage.layout import StoreLayout
from backtracking_assets.storage.parquet import DamagedFileError, read_columns, read_facts, read_parquet
from backtracking_assets_tests.tiny import experiment_document, write_experiment, write_problems
from backtracking_assets_tests.unit.bounds import bounded
from backtracking_assets_tests.unit.storage_samples import completions_of, condition, generate, keys

MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SLOW = settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DOCUMENT = experiment_document(Path("checkpoint"), Path("problems.jsonl"))
TEXT = yaml.safe_dump(DOCUMENT, sort_keys=False)


def bomb(open_: str, close: str, levels: int = 9) -> str:
    """Aliases of aliases: nine to the power of `levels` leaves in a few lines, and the last alias's name."""
    first = f"b0: &b0 {open_}k: 1{close}\n" if open_ == "{" else f"b0: &b0 {open_}1{close}\n"
    lines = [first]
    for level in range(1, levels):
        inner = ", ".join(f"k{n}: *b{level - 1}" if open_ == "{" else f"*b{level - 1}" for n in range(9))
        lines.append(f"b{level}: &b{level} {open_}{inner}{close}\n")
    return "".join(lines)


def replaced(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


YAML = {
    "nested brackets": "name: " + "[" * 100_000,
    "nested braces": "{a: " * 20_000,
    "nested lines": "\n".join(" " * depth + "a:" for depth in range(1200)),
    "bomb of lists": bomb("[", "]") + replaced("title: A random model", "title: *b8"),
    "bomb of mappings": bomb("{", "}") + replaced("layer_subsets:\n", "layer_subsets:\n  bomb: *b8\n"),
    "bomb in a list": bomb("[", "]") + replaced("- Wait", "- *b8"),
    "alias of itself": replaced("title: A random model", "title: &a [*a]"),
    "mapping in itself": replaced("prompting:\n", "prompting: &a\n  prompting: *a\n"),
    "object tag": TEXT + "x: !!python/object:os.path {}\n",
    "apply tag": replaced("title: A random model", "title: !!python/object/apply:os.mkdir ['pwned']"),
    "name tag": replaced("title: A random model", "title: !!python/name:os.system"),
    "module tag": replaced("title: A random model", "title: !!python/module:os"),
    "unknown tag": replaced("title: A random model", "title: !x y"),
    "integer of digits": replaced("seed: 7", "seed: " + "9" * 5000),
    "integer of hexadecimal digits": replaced("seed: 1", "seed: 0x" + "f" * 9000),
    "base sixty": replaced("seed: 7", "seed: " + "1:" * 3000 + "1"),
    "exponent": replaced("temperature: 1.0", "temperature: 1.0e+999999999"),
    "no such day": replaced("A random model", "2024-99-99"),
    "no float": replaced("temperature: 1.0", "temperature: !!float abc"),
    "no integer": replaced("seed: 7", "seed: !!int ''"),
    "no bool": replaced("chat_template: false", "chat_template: !!bool maybe"),
    "no time": replaced("A random model", "!!timestamp x"),
    "no pairs": replaced("A random model", "!!omap 3"),
    "no base 64": replaced("A random model", "!!binary 'a'"),
    "list as key": "? [a]\n: b\n",
    "mapping as key": "? {a: b}\n: c\n",
    "merged scalar": TEXT + "<<: 3\n",
    "NUL": replaced("A random", "A \0 random"),
    "NUL in a path": replaced("path: checkpoint", 'path: "check\\0point"'),
    "lone surrogate": replaced("A random model", '"\\ud800"'),
    "half of a tag": TEXT + "!",
    "megabytes": replaced("A random model", "a" * 10_000_000),
    "a million layers": replaced("n_layers: 2", "n_layers: 1000000000"),
    "many triggers": replaced("- Wait", "\n  ".join(f"- t{n}" for n in range(30_000)) + "\n  - t0"),
    "many layers": replaced("attention:\n    - 1", "attention: [" + ",".join(map(str, range(40_000))) + "]"),
    "many unknown keys": TEXT + "".join(f"key{n}: 1\n" for n in range(20_000)),
    "long unknown key": TEXT + "k" * 900 + ": 1\n",
}


def refused_or_loaded(path: Path) -> None:
    with bounded():
        try:
            load_experiment(path)
        except ExperimentError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 6000 + len(str(path))


@pytest.mark.parametrize("content", YAML.values(), ids=YAML)
def test_an_adversarial_experiment_file_is_refused(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "e.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with bounded(), pytest.raises(ExperimentError) as refusal:
        load_experiment(path)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 6000
    assert list(tmp_path.iterdir()) == [path]


def test_right_to_left_marks_are_text_like_any_other(tmp_path: Path) -> None:
    title = "\u202eabc\u202c \u2066x\u2069"
    assert write_experiment(tmp_path / "e.yaml", {**DOCUMENT, "title": title}).title == title


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([[], {}, [[]], "auto", "all", 10**400, -1, 1e308, "\u202e", "[1]"]),
)


def _places(value: Any, place: tuple = ()) -> list[tuple]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(deeper for step, inner in steps for deeper in _places(inner, (*place, step)))]


def _mutated(place: tuple, value: Any) -> dict[str, Any]:
    document: Any = copy.deepcopy(DOCUMENT)
    target = document
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    return document


def _one_value_changed(folder: Path, place: tuple, value: Any) -> None:
    path = folder / "e.yaml"
    path.write_text(yaml.safe_dump(_mutated(place, value), sort_keys=False), encoding="utf-8")
    refused_or_loaded(path)


def _bytes_changed(content: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    """Some bytes replaced by others, at places that are taken round the length."""
    changed = bytearray(content)
    for place, new in changes:
        at = place % (len(changed) + 1)
        changed[at : at + len(new)] = new
    return bytes(changed)


_CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4)
_YAML_CHANGES = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.sampled_from([b"[", b"]", b"{", b"}", b": ", b"- ", b"&a ", b"*a", b"!!int ", b"|", b">", b"'", b'"', b"\t"])
        | st.binary(min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=4,
)
_PLACES = st.sampled_from([place for place in _places(DOCUMENT) if place])


@MANY
@given(_PLACES, _VALUES)
def test_a_valid_experiment_with_one_other_value(tmp_path: Path, place: tuple, value: Any) -> None:
    _one_value_changed(tmp_path, place, value)


@MANY
@given(_YAML_CHANGES)
def test_a_valid_experiment_with_other_bytes(tmp_path: Path, changes: list[tuple[int, bytes]]) -> None:
    (tmp_path / "e.yaml").write_bytes(_bytes_changed(TEXT.encode(), changes))
    refused_or_loaded(tmp_path / "e.yaml")


@MANY
@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_as_an_experiment(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e.yaml").write_bytes(content)
    refused_or_loaded(tmp_path / "e.yaml")


@pytest.mark.slow
@SLOW
@given(_PLACES, _VALUES, _YAML_CHANGES)
def test_experiments_with_many_changes(
    tmp_path: Path, place: tuple, value: Any, changes: list[tuple[int, bytes]]
) -> None:
    text = yaml.safe_dump(_mutated(place, value), sort_keys=False)
    (tmp_path / "e.yaml").write_bytes(_bytes_changed(text.encode(), changes))
    refused_or_loaded(tmp_path / "e.yaml")


LINES = {
    "nested lists": b'{"id": "a", "question": ' + b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "closed lists": b'{"id": "a", "question": ' + b"[" * 5000 + b"]" * 5000 + b', "answer_value": 1}',
    "integer of digits": b'{"id": "a", "question": "q", "answer_value": ' + b"9" * 100_000 + b"}",
    "exponent": b'{"id": "a", "question": "q", "answer_value": 1e999999999}',
    "no number": b'{"id": "a", "question": "q", "answer_value": NaN}',
    "megabytes": b'{"id": "a", "question": "' + b"q" * 10_000_000 + b'", "answer_value": 1}',
    "megabytes of one character": b"[" * 10_000_000,
    "long key": b'{"' + b"k" * 1_000_000 + b'": 1}',
    "many keys": b"{" + b", ".join(b'"k%d": 1' % n for n in range(100_000)) + b"}",
    "NUL": b'{"id": "a\\u0000", "question": "\\u0000", "answer_value": "\\u0000"}',
    "surrogate id": b'{"id": "\\udc00", "question": "q", "answer_value": 1}',
    "right-to-left": '{"id": "\u202ea", "question": "\u202e1", "answer_value": "\u202e1"}'.encode(),
    "no newlines": b"\r" * 1_000_000,
}


def load(folder: Path, content: bytes) -> None:
    path = folder / "problems.jsonl"
    path.write_bytes(content)
    document = experiment_document(folder, path)
    document["problems"]["count"] = 1
    with bounded():
        try:
            (problem,) = load_problems(write_experiment(folder / "e.yaml", document))
        except ProblemFileError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 2000
        else:
            (problem.problem_id + problem.question + problem.answer).encode()


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_an_adversarial_problem_file_loads_or_is_refused(tmp_path: Path, line: bytes) -> None:
    load(tmp_path, line + b"\n")


@MANY
@given(_CHANGES)
def test_a_valid_problem_file_with_other_bytes(tmp_path: Path, changes: list[tuple[int, bytes]]) -> None:
    content = write_problems(tmp_path / "problems.jsonl", 3).read_bytes()
    load(tmp_path, _bytes_changed(content, changes))


OF = condition()


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    """A store with an archive of four completions, and a journal with four more and two that are planned."""
    layout = StoreLayout(tmp_path / "store")
    generate(layout, OF, keys(2, 2))
    chunks = plan_chunks(layout, OF.fingerprint, keys(5, 2), keys(2, 2), 4)
    finish_chunk(layout, OF.fingerprint, chunks[0], completions_of(OF.fingerprint, chunks[0]))
    return layout


def _deep(content: dict) -> bytes:
    return b'{"format": ' + b"[" * 100_000


def _signed(change: Callable[[dict], Any]) -> Callable[[dict], bytes]:
    """A changed plan whose checksum fits."""

    def make(content: dict) -> bytes:
        content = {key: value for key, value in content.items() if key != "sha256"}
        change(content)
        return json.dumps({**content, "sha256": digest(content)}).encode()

    return make


PLANS: dict[str, Callable[[dict], bytes]] = {
    "nested": _deep,
    "integer of digits": lambda content: b'{"format": ' + b"9" * 100_000 + b"}",
    "infinite format": lambda content: b'{"format": Infinity, "sha256": ""}',
    "list": lambda content: b"[]",
    "number": lambda content: b"1e999",
    "NULs": lambda content: b"\0" * 100,
    "signed, no chunks": _signed(lambda content: content.update(chunks=None)),
    "signed, chunks of text": _signed(lambda content: content.update(chunks=["ab", "cd"])),
    "signed, keys of one part": _signed(lambda content: content.update(chunks=[[["p000"]]])),
    "signed, sample of text": _signed(lambda content: content.update(chunks=[[["p000", "x"]]])),
    "signed, huge sample": _signed(lambda content: content.update(chunks=[[["p000", 10**30]]])),
    "signed, infinite sample": _signed(lambda content: content.update(chunks=[[["p000", 1e308]]])),
    "signed, problem of numbers": _signed(lambda content: content.update(chunks=[[[1, 2]]])),
    "signed, problem of lists": _signed(lambda content: content.update(chunks=[[[[], 2]]])),
    "signed, same chunk twice": _signed(lambda content: content["chunks"].append(content["chunks"][0])),
}


def read_plan(layout: StoreLayout) -> None:
    for read in (journal_progress, finished_keys):
        try:
            read(layout, OF.fingerprint)
        except DamagedFileError as error:
            assert "\n" not in str(error)
    # Whatever it was, the work goes on, and each key that is missing is planned.
    planned = plan_chunks(layout, OF.fingerprint, keys(5, 2), keys(2, 2), 4)
    assert {key for chunk in planned for key in chunk.keys} >= set(keys(5, 2)) - set(keys(2, 2))


@pytest.mark.parametrize("spoil", PLANS.values(), ids=PLANS)
def test_an_adversarial_plan_is_set_aside_and_made_anew(layout: StoreLayout, spoil: Callable[[dict], bytes]) -> None:
    path = layout.plan_of(OF.fingerprint)
    path.write_bytes(spoil(json.loads(path.read_bytes())))
    with bounded():
        read_plan(layout)


@MANY
@given(_CHANGES)
def test_a_plan_with_other_bytes(layout: StoreLayout, changes: list[tuple[int, bytes]]) -> None:
    path = layout.plan_of(OF.fingerprint)
    path.write_bytes(_bytes_changed(path.read_bytes(), changes))
    with bounded():
        read_plan(layout)


def _read_store_files(layout: StoreLayout) -> None:
    """Every reader of archive and chunk files, those that set damaged files aside last."""
    for read in (read_archive, archived_keys, archived_condition):
        try:
            read(layout, OF.fingerprint)
        except DamagedFileError as error:
            assert "\n" not in str(error)
    archive = verified_archive(layout, OF.fingerprint)
    assert archive is None or archive.schema == COMPLETIONS
    assert all(table.schema == COMPLETIONS for table in finished_chunks(layout, OF.fingerprint).values())


@MANY
@given(_CHANGES, st.booleans())
def test_an_archive_or_chunk_with_other_bytes(
    layout: StoreLayout, changes: list[tuple[int, bytes]], of_archive: bool
) -> None:
    chunks = list(layout.journal_of(OF.fingerprint).glob("*.parquet"))
    path = layout.archive_of(OF.fingerprint) if of_archive or not chunks else chunks[0]
    sound = path.read_bytes()
    path.write_bytes(_bytes_changed(sound, changes))
    with bounded():
        _read_store_files(layout)
    path.write_bytes(sound)


def test_a_small_file_that_declares_much_is_refused(tmp_path: Path) -> None:
    """The header of its one page says that 130 MB come out of a few hundred bytes."""
    path = tmp_path / "declared.parquet"
    text = pa.table({"text": ["a" * 1_500_000]})
    pq.write_table(text, path, compression="zstd", use_dictionary=False, write_statistics=False)
    content = path.read_bytes()
    assert len(content) < 2000
    declared = _zigzag_varint(130_000_000)
    # Not knowing the size of the levels before the text, take the one number of that magnitude in the header.
    sizes = [_zigzag_varint(1_500_000 + extra) for extra in range(64)]
    true_size = next(size for size in sizes if size in content[:64])
    assert len(true_size) == len(declared)
    path.write_bytes(content.replace(true_size, declared))
    for read in (
        lambda: read_parquet(path, schema=text.schema, expected={}),
        lambda: read_columns(path, ["text"], schema=text.schema, expected={}),
    ):
        with bounded(), pytest.raises(DamagedFileError):
            read()


def _zigzag_varint(number: int) -> bytes:
    number *= 2
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def test_facts_of_another_program_are_no_facts(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    marked = pa.table({"x": [1]}).replace_schema_metadata({b"backtracking.\xff": b"\xfe", b"backtracking.kind": b"\0"})
    pq.write_table(marked, path)
    with pytest.raises(DamagedFileError):
        read_facts(path, expected={"kind": "archive"})
