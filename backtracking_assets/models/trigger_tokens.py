"""The tokens that begin a trigger, as a tokenizer writes it."""

from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast


def trigger_tokens(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], observed: Iterable[int]) -> dict[int, str]:
    """The tokens that begin a trigger and their text, by id, sorted.

    They are those in which triggers were observed to begin, and the first token of each text alone and after a space:
    many tokenizers have a token of its own for a word after a space. A text that the tokenizer does not return as it
    was, and a first token that is nothing but white space, are left out. Where a trigger is written in several tokens,
    its first one counts, whatever may follow it.

    Args:
        texts: the triggers in each spelling that counts.
        observed: tokens in which triggers were seen to begin.
    """
    found = set(observed)
    for text in texts:
        for written in (text, f" {text}"):
            try:
                ids = tokenizer.encode(written, add_special_tokens=False)
            except Exception:  # the tokenizers library raises bare Exception for what a vocabulary cannot write
                continue
            if ids and _decoded(tokenizer, ids).strip() == text and _decoded(tokenizer, ids[:1]).strip():
                found.add(ids[0])
    return {token_id: _decoded(tokenizer, [token_id]) for token_id in sorted(found)}


def _decoded(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
