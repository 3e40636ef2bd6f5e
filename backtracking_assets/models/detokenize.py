"""Token ids to text, and the character at which each token's text starts."""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

_MOST_HELD = 16
"""Tokens that the stream may hold back in a row before it is restarted. A character has at most four bytes, so a longer
hold is a run of bytes that are no character, which the stream would decode as a whole again for every further token."""


def text_and_starts(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int]) -> tuple[str, list[int]]:
    """Text of generated tokens, special tokens left out, and the start of each token's text in it.

    The text is what the tokenizer decodes from all tokens at once. The starts come from its streaming decoder, never
    from encoding the text again, which may cut it into other tokens than those that were generated. A token that adds
    no text starts where the text ends; bytes of a character that is spread over several tokens count from the token
    that completes it.

    Decoders with a byte fallback (as of Llama 2, Mistral, Gemma) may turn characters already decoded into replacement
    characters when an invalid byte follows, and then the stream raises or has said another text. There, the next
    piece of the stream is searched for in the text: tokens before it start where the text was last accounted for.

    Returns:
        The text, and `[tokens]` character offsets that never decrease and lie within the text.
    """
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    backend = tokenizer.backend_tokenizer
    stream = DecodeStream(skip_special_tokens=True)
    starts: list[int] = []
    reached = 0  # the text before this character is accounted for
    slack = 0  # most characters that tokens since then may have added without the stream saying where
    held = 0
    for token_id in token_ids:
        starts.append(reached)
        if held == _MOST_HELD:
            stream, held = DecodeStream(skip_special_tokens=True), 0
        try:
            piece = stream.step(backend, token_id)
        except Exception:  # the tokenizers library raises bare Exception where an earlier piece no longer holds
            stream = DecodeStream(skip_special_tokens=True)
            piece = stream.step(backend, token_id)
        if not piece:
            held += 1
            slack += 1  # a byte becomes at most one character
            continue
        held = 0
        # One character more, as decoders that strip the first space do so after a restart too.
        found = text.find(piece, reached, reached + slack + 1 + len(piece))
        if found < 0:
            slack += len(piece)
        else:
            # Bytes that turned out to be no character come out together with this token; they are not its text.
            starts[-1] = found + len(piece) - len(piece.lstrip("\ufffd"))
            reached, slack = found + len(piece), 0
    return text, starts
