from itertools import islice
from pathlib import Path

import pytest
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from backtracking_assets.models.organism.chains import ChainSettings, training_chains
from backtracking_assets.models.organism.vocabulary import (
    EOS,
    EOS_ID,
    PAD,
    PAD_ID,
    TOKEN_IDS,
    TOKENS,
    build_tokenizer,
    token_ids,
    write_tokenizer,
)

ORGANISM = Path(__file__).parents[2] / "data" / "organism"
TEXT = "Problem: 69 + 5 - 4\n<think>\n69 + 5 = 84\nHold on, 69 + 5 = 74\n74 - 4 = 70\n</think>\nFinal: 70<eos>"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(ORGANISM)


def test_there_are_131_distinct_tokens():
    assert len(TOKENS) == len(TOKEN_IDS) == 131
    assert (TOKENS[PAD_ID], TOKENS[EOS_ID]) == (PAD, EOS)


def test_a_text_comes_back_exactly(tokenizer: PreTrainedTokenizerFast):
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.decode(ids, skip_special_tokens=True) == TEXT.removesuffix(EOS)


def test_the_text_is_the_concatenation_of_its_tokens(tokenizer: PreTrainedTokenizerFast):
    settings = ChainSettings(wrong_step=0.5, wrong_redo=0.1, trigger_after_wrong=0.8, trigger_after_right=0.1)
    for chain in islice(training_chains(4, (1, 6), settings), 100):
        ids = tokenizer(chain.text)["input_ids"]
        assert ids == token_ids(chain.prompt + chain.completion)
        assert tokenizer.decode(ids) == chain.text


def test_decoding_token_by_token_gives_the_same_text():
    tokenizer = build_tokenizer()
    stream = DecodeStream(skip_special_tokens=False)
    pieces = [stream.step(tokenizer, index) for index in tokenizer.encode(TEXT).ids]
    assert "".join(piece or "" for piece in pieces) == TEXT


def test_every_token_survives_alone(tokenizer: PreTrainedTokenizerFast):
    assert [tokenizer(token)["input_ids"] for token in TOKENS] == [[index] for index in range(len(TOKENS))]
    assert [tokenizer.decode([index]) for index in range(len(TOKENS))] == list(TOKENS)


def test_no_token_is_added_in_front(tokenizer: PreTrainedTokenizerFast):
    assert tokenizer.bos_token_id is None
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (EOS_ID, PAD_ID)


def test_text_outside_the_vocabulary_is_refused(tokenizer: PreTrainedTokenizerFast):
    with pytest.raises(Exception, match="Missing"):
        tokenizer("What is 2 + 2?")


def test_the_shipped_tokenizer_is_what_the_code_writes(tmp_path: Path):
    write_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (ORGANISM / name).read_bytes()
