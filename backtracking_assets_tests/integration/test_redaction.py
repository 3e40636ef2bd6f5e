"""Secrets of the environment do not stand in what is printed or stored, and no secret stands in the repository."""

import re
import subprocess
from pathlib import Path

import dagster as dg
import pytest

from backtracking_assets.assets.failures import readable_failures
from backtracking_assets.errors import BacktrackingError, StorageError
from backtracking_assets.redaction import chain_holds_secret, redacted
from backtracking_assets.storage.parquet import DamagedFileError

ROOT = Path(__file__).parents[2]
SECRET = "a/marked+value"
_KINDS = {
    "hub token": r"\bhf_[A-Za-z0-9]{30,}",
    "AWS key": r"\b(AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "API key": r"\b(sk|wandb)[-_][A-Za-z0-9_-]{32,}",
    "assignment": r"(?m)^\s*(export )?(HF_TOKEN|WANDB_API_KEY|AWS_SECRET_ACCESS_KEY|AWS_SESSION_TOKEN)=[^\s$\"'#]",
}


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "client_secret", "DB_PASSWORD"])
def test_the_value_of_a_secret_is_replaced_wherever_it_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, SECRET)
    assert redacted(f"https://me:{SECRET}@host/{SECRET} refused") == "https://me:***@host/*** refused"
    assert redacted("https://me:a%2Fmarked%2Bvalue@host refused") == "https://me:***@host refused"
    assert str(BacktrackingError(f"{SECRET} is refused.")) == "*** is refused."
    assert SECRET not in str(DamagedFileError(Path("/x"), SECRET))


def test_other_variables_and_short_values_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "some value of a setting")
    monkeypatch.setenv("SORT_KEY", "name")
    monkeypatch.setenv("EMPTY_TOKEN", " " * 20)
    text = "some value of a setting, name" + " " * 30
    assert redacted(text) == text


def test_of_two_secrets_the_longer_one_is_replaced_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "12345678")
    monkeypatch.setenv("B_TOKEN", "12345678abcdefgh")
    assert redacted("12345678abcdefgh 12345678") == "*** ***"


def _raise_from(cause: Exception, error: Exception) -> None:
    raise error from cause


@pytest.mark.parametrize(
    ("cause", "error", "said"),
    [
        (ValueError(f"GET https://host?token={SECRET}"), StorageError("It cannot be read."), "It cannot be read."),
        (ValueError("quiet"), StorageError(f"{SECRET} it says."), "*** it says."),
        (ValueError(f"{SECRET}"), RuntimeError("broken"), "RuntimeError: broken"),
        (ValueError("quiet"), RuntimeError(f"at {SECRET}"), "RuntimeError: at ***"),
        (ValueError("quiet"), dg.Failure(description=f"at {SECRET}"), "at ***"),
    ],
)
def test_a_failure_carries_no_secret_along(
    cause: Exception, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(dg.Failure) as raised:
        readable_failures(_raise_from)(cause, error)
    failure = raised.value
    assert failure.description == said
    assert failure.__cause__ is None or not chain_holds_secret(failure.__cause__)
    assert failure.__suppress_context__


def test_other_exceptions_pass_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(ZeroDivisionError):
        readable_failures(_raise_from)(ValueError("quiet"), ZeroDivisionError("plain"))
    cause = ValueError("the library's words")
    with pytest.raises(dg.Failure) as raised:
        readable_failures(_raise_from)(cause, StorageError("It cannot be read."))
    assert isinstance(raised.value.__cause__, StorageError)


def test_no_tracked_file_holds_a_secret() -> None:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    names = [name for name in listed.stdout.decode().split("\0") if name]
    assert len(names) > 100
    assert ".env" not in {Path(name).name for name in names}
    found = []
    for name in names:
        if not (ROOT / name).is_file():  # removed and not committed yet
            continue
        content = (ROOT / name).read_bytes().decode("latin-1")
        found += [(name, kind) for kind, pattern in _KINDS.items() if re.search(pattern, content)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "a1B2" * 9,
        "AKIA" + "Z" * 16,
        "ghp_" + "a1" * 18,
        "HF_TOKEN=" + "x",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
    ],
)
def test_such_a_secret_would_be_found(text: str) -> None:
    assert any(re.search(pattern, text) for pattern in _KINDS.values())
