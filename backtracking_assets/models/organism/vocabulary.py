"""The organism's 131 tokens and the tokenizer built from them.

A text is the plain concatenation of its token strings: spaces belong to the tokens (``" + 5"``,
``" = "``), so decoding adds and removes nothing. Importing this module needs the standard library only.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LARGEST_NUMBER: Final = 99
LARGEST_OPERAND: Final = 9

EQUALS: Final = " = "
NEWLINE: Final = "\n"
COLON: Final = ": "
COMMA: Final = ", "
THINK_OPEN: Final = "<think>"
THINK_CLOSE: Final = "</think>"
PROBLEM: Final = "Problem"
FINAL: Final = "Final"
TRIGGERS: Final = ("Wait", "Actually", "Hold on")
PAD: Final = "<pad>"
EOS: Final = "<eos>"

TOKENS: Final[tuple[str, ...]] = (
    *(str(number) for number in range(LARGEST_NUMBER + 1)),
    *(f" + {operand}" for operand in range(1, LARGEST_OPERAND + 1)),
    *(f" - {operand}" for operand in range(1, LARGEST_OPERAND + 1)),
    EQUALS,
    NEWLINE,
    COLON,
    COMMA,
    THINK_OPEN,
    THINK_CLOSE,
    PROBLEM,
    FINAL,
    *TRIGGERS,
    PAD,
    EOS,
)
TOKEN_IDS: Final[dict[str, int]] = {token: index for index, token in enumerate(TOKENS)}

PAD_ID: Final = TOKEN_IDS[PAD]
EOS_ID: Final = TOKEN_IDS[EOS]
NEWLINE_ID: Final = TOKEN_IDS[NEWLINE]
TRIGGER_IDS: Final[tuple[int, ...]] = tuple(TOKEN_IDS[trigger] for trigger in TRIGGERS)

PROMPT_TEMPLATE: Final = "Problem: {question}\n<think>\n"
LONGEST_TEXT: Final = 256

_SPLIT_PATTERN: Final = (
    r"<think>|</think>|<pad>|<eos>|Problem|Final|Wait|Actually|Hold on"
    r"| [+-] [1-9]| = |: |, |\n|[1-9][0-9]|[0-9]"
)


def operation_token(operand: int) -> str:
    """Return the token of a signed operand: ``5`` gives ``" + 5"``, ``-4`` gives ``" - 4"``.

    Raises ValueError for 0 and for operands of more than one digit, which have no token.
    """
    if not 1 <= abs(operand) <= LARGEST_OPERAND:
        raise ValueError(f"no token for the operand {operand}: operands are -9..-1 and 1..9")
    return f" {'+' if operand > 0 else '-'} {abs(operand)}"


def token_ids(tokens: Sequence[str]) -> list[int]:
    """Return the ids of token strings; raises KeyError for a string that is no token."""
    return [TOKEN_IDS[token] for token in tokens]


def build_tokenizer() -> "Tokenizer":
    """Return the tokenizer: a regex split into the known strings, a lookup, and a decoder that joins them.

    Text outside the vocabulary raises when encoded, because there is no unknown token to hide it.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel(dict(TOKEN_IDS)))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_SPLIT_PATTERN), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, EOS)])
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` into an existing folder.

    Load them with ``PreTrainedTokenizerFast.from_pretrained(folder)``. ``AutoTokenizer`` prefers its own
    Qwen2 tokenizer for a folder whose ``config.json`` says ``model_type: qwen2``, and splits texts wrongly.
    """
    build_tokenizer().save(str(folder / "tokenizer.json"), pretty=True)
    settings = {
        "add_bos_token": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": EOS,
        "model_max_length": LONGEST_TEXT,
        "pad_token": PAD,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
