"""Reading a whole run folder of the reference study's layout."""

import re
from collections import Counter
from pathlib import Path

from backtracking_assets.errors import RunFolderError
from backtracking_assets.imported_records import (
    EVENTS_FILE,
    SELECTED_LAYERS_FILE,
    ContinuationFile,
    PublishedFigure,
    RunFolder,
    Unreadable,
)
from backtracking_assets.storage.run_folders.events import read_events
from backtracking_assets.storage.run_folders.files import (
    FileProblems,
    content_of,
    find_file,
    read_csv,
    read_json,
    sha256_of,
)
from backtracking_assets.storage.run_folders.published import DOCUMENTS, TABLES, read_document, read_selected
from backtracking_assets.storage.run_folders.values import Row, UnfitValueError, shown

META, SELECTED = "meta.json", SELECTED_LAYERS_FILE
FILES = (EVENTS_FILE, *TABLES, *DOCUMENTS, SELECTED, META)
"""The files of the layout. Any may be missing."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_LONGEST_FACT = 300


def read_run_folder(folder: Path) -> RunFolder:
    """Everything of a run folder. What cannot be read of a file is left out and named.

    Raises:
        RunFolderError: the folder is none of this layout, a file in it is something else than its name says, or the
            run has no usable id.
    """
    if not folder.is_dir():
        raise RunFolderError(f"{folder} is no folder; give the folder of one run, which has analysis/ or its files.")
    paths = {name: path for name in FILES if (path := find_file(folder, name)) is not None}
    continuations = _continuation_files(folder)
    if not (paths.keys() - {META}) and not continuations:
        raise RunFolderError(
            f"{folder} holds no file of a run, neither itself nor in analysis/; looked for {', '.join(FILES)}."
        )
    unreadable: dict[str, FileProblems] = {path.name: FileProblems(path) for path in [*paths.values(), *continuations]}
    meta = _meta(paths[META], unreadable[META]) if META in paths else {}
    run = RunFolder(
        run_id=_run_id(folder, meta),
        folder=folder.resolve().name,
        meta=meta,
        files=sorted(unreadable),
        absent=[name for name in FILES if name not in paths],
        digests={path.name: sha256_of(content_of(path)) for path in [*paths.values(), *continuations]},
        events=None,
        event_columns=(),
        figures=[],
        selected=None,
        continuations=[],
    )
    if EVENTS_FILE in paths:
        run.events, run.event_columns = read_events(paths[EVENTS_FILE], unreadable[EVENTS_FILE])
    for name, read in TABLES.items():
        if name in paths:
            run.figures += read(paths[name], unreadable[name])
    for name in DOCUMENTS:
        if name in paths:
            run.figures += read_document(paths[name], unreadable[name])
    if SELECTED in paths:
        run.selected = read_selected(paths[SELECTED], unreadable[SELECTED])
        run.figures += [
            PublishedFigure(SELECTED, f"{kind}.{layer}", "rank", float(rank))
            for kind, layers in (run.selected or {}).items()
            for rank, layer in enumerate(layers, start=1)
        ]
    run.continuations = [_continuation(path, unreadable[path.name]) for path in continuations]
    found = [entry for problems in unreadable.values() for entry in problems.found]
    run.unreadable, run.n_unreadable = _by_place(found), len(found)
    return run


def _by_place(found: list[Unreadable]) -> list[Unreadable]:
    """One entry for each place of a file, its reasons together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for entry in found:
        reasons.setdefault((entry.file, entry.place), []).append(entry.reason)
    return [Unreadable(file, place, "; ".join(dict.fromkeys(said))) for (file, place), said in reasons.items()]


def _meta(path: Path, problems: FileProblems) -> dict[str, str]:
    """The facts of meta.json that are text or numbers."""
    facts: dict[str, str] = {}
    for key, value in read_json(path).items():
        if isinstance(value, str):
            if len(value) <= _LONGEST_FACT and value.isprintable():
                facts[key] = str(value)
            else:
                problems.leave_out(shown(key), "it is too long, or holds a character that cannot be seen")
    return facts


def _run_id(folder: Path, meta: dict[str, str]) -> str:
    stated = meta.get("run_id")
    run_id = stated if stated is not None else folder.resolve().name
    if not _RUN_ID.fullmatch(run_id):
        where = f"run_id in {META}" if stated is not None else f"the folder's name, used as there is no {META} with one"
        raise RunFolderError(
            f"{folder}: {where} is {shown(run_id)}, which is no run id: letters, digits, dots, dashes and underscores, "
            "80 at most; nothing was imported."
        )
    return run_id


def _continuation_files(folder: Path) -> list[Path]:
    """Result files of a continuation ablation; the study's layout does not fix their name."""
    found: dict[str, Path] = {}
    for place in (folder / "analysis", folder):
        for path in sorted(place.glob("*continuation*.csv")) if place.is_dir() else ():
            found.setdefault(path.name, path)
    return list(found.values())


def _continuation(path: Path, problems: FileProblems) -> ContinuationFile:
    columns: list[str] = []

    def values(row: Row, line: int) -> dict[str, str | None]:
        return {name: row.text(name) for name in columns}

    # The columns are not known before they are read; a first look gives them.
    _, columns = read_csv(path, (), lambda row, line: None, FileProblems(path))
    rows, _ = read_csv(path, (), values, problems)
    probability = next((name for name in columns if "prob" in name.lower()), None)
    distinct: Counter[float] = Counter()
    for row in rows:
        try:
            value = Row({"value": row.get(probability or "") or ""}).optional_number("value")
        except UnfitValueError:
            continue
        if value is not None:
            distinct[value] += 1
    return ContinuationFile(
        file=path.name,
        n_rows=len(rows),
        columns=tuple(columns),
        n_distinct=None if probability is None else len(distinct),
    )
