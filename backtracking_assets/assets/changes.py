"""What has changed between what a cell was made from and what the experiment file asks for now, in words."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backtracking_assets.records import Problem
from backtracking_assets.reporting.formats import format_components

_LONGEST = 60
"""Characters of a value that is shown; of a longer one only its name is said."""

_DIGESTS = {"weights_digest": "weights", "tokenizer_digest": "tokenizer"}
_PROMPT = {
    "system": "system line",
    "chat_template": "chat template",
    "template": "text of the variant",
    "assistant_prefix": "assistant prefix",
}
_SAMPLING = {"temperature": "temperature", "top_p": "top-p", "max_new_tokens": "token cap", "seed": "seed"}
_RULES = {
    "strict": "strict triggers",
    "relaxed": "relaxed triggers",
    "priority": "priority",
    "answer_marker": "answer marker",
    "steps": "steps",
    "degenerate_repeats": "degenerate repeats",
}
_KNOWN = {"generator_version", "dtype", "intervention", *_DIGESTS, *_PROMPT, *_SAMPLING}
_PLAIN = re.compile(r"[\w.+-]+")


def condition_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two conditions, given as JSON values: a phrase for each part of the study.

    A key that this release does not know, as of a condition of another release, is called by its own name.
    """
    differing = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    parts = {
        "checkpoint": [f"other {label}" for key, label in _DIGESTS.items() if key in differing]
        + _values(before, now, {"dtype": "dtype"}),
        # Prompts are long: it helps more to say which part of them is another.
        "prompt": [label for key, label in _PROMPT.items() if key in differing],
        "sampling": _values(before, now, _SAMPLING),
        "condition": [key for key in differing if key not in _KNOWN],
    }
    changes = _code_version("generator", before.get("generator_version"), now.get("generator_version"))
    changes += [f"{label}: {', '.join(found)}" for label, found in parts.items() if found]
    if "intervention" in differing:
        changes.append(_intervention_change(before.get("intervention"), now.get("intervention")))
    return changes


def _intervention_change(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    old, new = _components(before), _components(now)
    if old != new or before is None or now is None:
        return f"layers: {old} → {new}"
    old_tokens, new_tokens = before.get("trigger_ids"), now.get("trigger_ids")
    if old_tokens != new_tokens:
        return f"trigger tokens: {old_tokens or 'none'} → {new_tokens or 'none'}"
    if before.get("means_digest") != now.get("means_digest"):
        return "layers: scaled towards other means"
    return f"scale: {_arrow(before['scale'], now['scale'])}"


def rules_changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """What differs between two documents of `analysis.detection.rules_document`; None: one that was not kept."""
    if before is None:
        return ["detection: other rules"]
    parts = _values(before["rules"], now["rules"], _with_others(_RULES, before["rules"], now["rules"]))
    changes = _code_version("detection", before["version"], now["version"])
    return [*changes, f"detection: {', '.join(parts)}"] if parts else changes


def statistics_changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """What differs between two documents of `analysis.metrics.statistics_document`; None: one that was not kept."""
    if before is None:
        return ["statistics: other settings"]
    parts = _values(before["statistics"], now["statistics"], _with_others({}, before["statistics"], now["statistics"]))
    changes = _code_version("metrics", before["version"], now["version"])
    return [*changes, f"statistics: {', '.join(parts)}"] if parts else changes


def problem_changes(before: Iterable[Problem], now: Mapping[str, Problem]) -> list[str]:
    """How the problems differ: how many were added, were removed, or have another text or answer."""
    known = {problem.problem_id: problem for problem in before}
    kept = [(known[name], problem) for name, problem in now.items() if name in known]
    counts = {
        "added": len(now) - len(kept),
        "removed": len(known) - len(kept),
        "with another text": len(changed_texts(known.values(), now)),
        "with another answer": sum(old.question == new.question and old.answer != new.answer for old, new in kept),
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return [f"problems: {', '.join(parts)}"] if parts else []


def changed_texts(before: Iterable[Problem], now: Mapping[str, Problem]) -> list[str]:
    """Ids of the problems that were kept with another question, sorted."""
    return sorted(p.problem_id for p in before if p.problem_id in now and now[p.problem_id].question != p.question)


def _with_others(labels: Mapping[str, str], *settings: Mapping[str, Any]) -> dict[str, str]:
    """The labels, and one for each further key of the settings."""
    others = sorted({key for one in settings for key in one} - labels.keys())
    return {**labels, **{key: key.replace("_", " ") for key in others}}


def _values(before: Mapping[str, Any], now: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """The keys whose values differ, each with its old and new value where these are short."""
    found: list[str] = []
    for key, label in labels.items():
        old, new = before.get(key), now.get(key)
        if old != new:
            shown = _marked(old, new) if isinstance(old, list) and isinstance(new, list) else _arrow(old, new)
            found.append(f"{label} {shown}" if len(shown) <= _LONGEST else label)
    return found


def _marked(old: Sequence[Any], new: Sequence[Any]) -> str:
    added = [f"+{_shown(value)}" for value in new if value not in old]
    removed = [f"-{_shown(value)}" for value in old if value not in new]
    return " ".join(added + removed) or "in another order"


def _arrow(old: Any, new: Any) -> str:
    return f"{_shown(old)} → {_shown(new)}"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return repr(value) if isinstance(value, str) and not _PLAIN.fullmatch(value) else str(value)


def _components(intervention: Mapping[str, Any] | None) -> str:
    if intervention is None:
        return "none"
    pairs = sorted((kind, layer) for layer, kind in intervention["components"])
    return format_components(f"{kind}.{layer}" for kind, layer in pairs)


def _code_version(what: str, old: Any, new: Any) -> list[str]:
    return [] if old == new else [f"code version: {what} {_arrow(old, new)}"]
