"""Token ids to text, and the character at which each token's text starts."""

from collections.abc import Sequence

from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast


def text_and_starts(tokenizer: PreTrainedTokenizerFast, token_ids: Sequence[int]) -> tuple[str, list[int]]:
    """Text of generated tokens, special tokens left out, and the start of each token's text in it.

    The starts come from the tokenizer's own streaming decoder, never from encoding the text again, which may cut it
    into other tokens than those that were generated. A token that adds no text starts where the text ends; bytes of a
    character that is spread over several tokens count from the token that completes it.

    Returns:
        The text, and `[tokens]` character offsets that never decrease.
    """
    stream = DecodeStream(skip_special_tokens=True)
    backend = tokenizer.backend_tokenizer
    pieces: list[str] = []
    starts: list[int] = []
    length = 0
    for token_id in token_ids:
        starts.append(length)
        piece = stream.step(backend, token_id)
        if piece:
            pieces.append(piece)
            length += len(piece)
    streamed = "".join(pieces)
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    # The stream holds back an unfinished character at the very end; decoding the whole shows it as a replacement.
    return (text if text.startswith(streamed) else streamed), starts
