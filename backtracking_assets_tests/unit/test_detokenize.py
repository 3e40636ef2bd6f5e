"""Text of generated tokens and where each token starts, for byte-level and byte-fallback tokenizers."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from backtracking_assets.models.detokenize import text_and_starts
from backtracking_assets_tests.tiny import byte_tokenizer

WORDS = ("▁Wait", ",", "▁so", "▁", "a", "ü")
FIRST_BYTE, FIRST_WORD = 2, 258


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """A few words and one token for every byte, decoded as in Llama 2."""
    tokens = ("<unk>", "<eos>", *(f"<0x{byte:02X}>" for byte in range(256)), *WORDS)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


TOKENIZERS = {"byte_fallback": byte_fallback_tokenizer(), "byte_level": byte_tokenizer()}


def byte_ids(content: bytes) -> list[int]:
    return [FIRST_BYTE + byte for byte in content]


def word_id(word: str) -> int:
    return FIRST_WORD + WORDS.index(word)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=300)
@given(data=st.data())
def test_any_ids_give_the_decoded_text_and_starts_within_it(name: str, data: st.DataObject):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=60))
    text, starts = text_and_starts(tokenizer, ids)
    assert text == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert len(starts) == len(ids)
    assert all(0 <= one <= other <= len(text) for one, other in pairwise([0, *starts]))


@given(st.lists(st.sampled_from(["Wait", "so", "你", "ü€", "x"]), min_size=1, max_size=12))
def test_starts_of_well_formed_byte_fallback_text_are_exact(parts: list[str]):
    ids: list[int] = []
    expected: list[int] = []
    text = ""
    for part in parts:
        if f"▁{part}" in WORDS:
            ids.append(word_id(f"▁{part}"))
            expected.append(len(text))
            text += f" {part}" if text else part  # the decoder strips the first space
            continue
        for character in part:
            encoded = byte_ids(character.encode())
            ids += encoded
            expected += [len(text)] * len(encoded)
            text += character
    assert text_and_starts(TOKENIZERS["byte_fallback"], ids) == (text, expected)


@pytest.mark.parametrize("content", [b"AB\xff", b"A\xe4", b"\xe4A\xbd", b"\x80" * 40])
def test_a_word_after_bytes_that_are_no_text_is_found_again(content: bytes):
    ids = [word_id("▁so"), *byte_ids(content), word_id("▁Wait"), word_id(",")]
    text, starts = text_and_starts(TOKENIZERS["byte_fallback"], ids)
    assert text == "so" + "\ufffd" * len(content) + " Wait,"
    # With or without its space: a restarted decoder strips it.
    assert text[starts[-2] : starts[-1]].strip() == "Wait"
    assert text[starts[-1] :] == ","


@pytest.mark.timeout(30)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_long_runs_of_lone_bytes_do_not_take_quadratic_time(name: str):
    tokenizer = TOKENIZERS[name]
    lone = byte_ids(b"\x80") if name == "byte_fallback" else tokenizer.encode("€")[1:2]
    text, starts = text_and_starts(tokenizer, lone * 100_000)
    assert text == "\ufffd" * 100_000
    assert len(starts) == 100_000


def test_token_starts_are_characters_of_the_text_even_inside_characters_of_several_bytes():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("aü€b")
    text, starts = text_and_starts(tokenizer, [*ids, *tokenizer.encode("<eos>")])
    assert text == "aü€b"
    # One byte each: a, two of ü, three of €, b, and the end-of-sequence token that adds nothing.
    assert starts == [0, 1, 1, 2, 2, 2, 3, 4]


def test_an_unfinished_character_at_the_end_stays_visible():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("a€")[:-1]
    text, starts = text_and_starts(tokenizer, ids)
    assert text.startswith("a")
    assert "\ufffd" in text
    assert len(starts) == len(ids)
    assert text_and_starts(tokenizer, []) == ("", [])
