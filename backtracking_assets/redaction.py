"""Keeping the environment's secrets out of texts that are printed or stored."""

import os
import re
from urllib.parse import quote

_SECRET_NAME = re.compile(r"(TOKEN|KEY|SECRET|PASSWORD)\Z", re.IGNORECASE)
_SHORTEST = 8
"""Characters; a shorter value stands in too many words to be replaced, and is no secret that keeps anyone out."""


def redacted(text: str) -> str:
    """The text with `***` for the value of each environment variable whose name ends in TOKEN, KEY, SECRET or
    PASSWORD, also where it is quoted as in a URL."""
    for value in _secrets():
        text = text.replace(value, "***")
    return text


def chain_holds_secret(error: BaseException) -> bool:
    """Whether the text of an exception, or of one that it came from, holds such a value."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        # Both are shown by one who prints the exception, and notes stand below its text.
        text = "\n".join([str(link), repr(link), *getattr(link, "__notes__", ())])
        if redacted(text) != text:
            return True
        pending += [link.__cause__, link.__context__]
    return False


def _secrets() -> list[str]:
    values = {
        value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value.strip()) >= _SHORTEST
    }
    # The longest first: one may be the beginning of another.
    return sorted({form for value in values for form in (value, quote(value, safe=""))}, key=len, reverse=True)
