"""The tokens that begin a trigger in the spellings that a text may have, without a model and without completions."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from backtracking_assets.errors import CheckpointError


def spellings(triggers: Iterable[str]) -> list[str]:
    """Each trigger as it is given, in lower case and with a capital, each once.

    Not in capitals: the first token of such a word is mostly a piece that begins many others.
    """
    found = (spelled for text in triggers for spelled in (text, text.lower(), text[:1].upper() + text[1:].lower()))
    return list(dict.fromkeys(found))


def spelled_trigger_tokens(folder: Path, triggers: Sequence[str]) -> dict[int, str]:
    """Id and text of the first token of each spelling, alone and after a space, sorted by id.

    A spelling that the tokenizer does not return as it was, and a first token that is nothing but white space, are left
    out. Where a trigger is written in several tokens, its first one counts, whatever may follow it.

    Args:
        folder: of the checkpoint.

    Raises:
        CheckpointError: the tokenizer cannot be loaded.
    """
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizers library raises bare Exception for a malformed file
        raise CheckpointError(f"{folder}: the tokenizer cannot be loaded: {error}") from error
    found: dict[int, str] = {}
    for text in spellings(triggers):
        for written in (text, f" {text}"):
            try:
                ids = tokenizer.encode(written, add_special_tokens=False).ids
            except Exception:  # what a vocabulary cannot write
                continue
            first = tokenizer.decode(ids[:1], skip_special_tokens=False)
            if ids and tokenizer.decode(ids, skip_special_tokens=False).strip() == text and first.strip():
                found[ids[0]] = first
    return dict(sorted(found.items()))
