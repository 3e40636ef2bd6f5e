"""Where bundles lie: URLs, credentials, errors of the place."""

from pathlib import Path

import pytest

from backtracking_assets.errors import BundleError
from backtracking_assets.storage.bundles.location import open_location
from backtracking_assets_tests.s3_server import s3_server


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/media/disk/results", "/media/disk/results/tiny"),
        ("/media/disk/results/", "/media/disk/results/tiny"),
        ("file:///media/disk/results", "/media/disk/results/tiny"),
        ("/media/disk: 2/me@home", "/media/disk: 2/me@home/tiny"),
        ("s3://bucket", "s3://bucket/tiny"),
        ("S3://bucket/a/b/", "s3://bucket/a/b/tiny"),
        ("hf://datasets/user/name", "hf://datasets/user/name/tiny"),
        ("hf://datasets/user/name@main/deep/er", "hf://datasets/user/name@main/deep/er/tiny"),
    ],
)
def test_a_place_is_told_as_it_was_given(url: str, shown: str) -> None:
    location = open_location(url, "tiny")
    assert location.shown == shown
    assert location.root == shown.partition("://")[2] or location.root == shown


def test_a_relative_folder_is_where_the_command_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_location("results", "tiny").root == str(tmp_path / "results" / "tiny")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_location("~/results", "tiny").root == str(tmp_path / "results" / "tiny")


def test_the_hub_is_reached_through_its_own_file_system() -> None:
    from huggingface_hub import HfFileSystem

    location = open_location("hf://datasets/user/name", "tiny")
    assert isinstance(location.filesystem, HfFileSystem)
    assert location.writers == 1


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAEXAMPLE:sesame@bucket/prefix",
        "s3://AKIAEXAMPLE:open/sesame@bucket/prefix",
        "s3://:sesame@bucket",
        "s3://AKIAEXAMPLE:sesame",
        "s3://bucket/prefix?aws_secret_access_key=sesame",
        "s3://bucket/prefix#sesame",
        "hf://user:sesame@datasets/user/name",
        "hf://datasets/user/name?token=sesame",
        "https://user:sesame@host/path",
        "ftp://user:sesame@host/path",
        "AKIAEXAMPLE:sesame@bucket/prefix",
        "file://user:sesame@host/path",
    ],
)
def test_credentials_in_a_url_are_refused_and_never_shown(url: str) -> None:
    with pytest.raises(BundleError) as refused:
        open_location(url, "tiny")
    message = str(refused.value)
    assert "sesame" not in message
    assert "AKIA" not in message
    assert "carries credentials or a query" in message
    assert "environment" in message


@pytest.mark.parametrize(
    "url", ["", "s3://", "s3:///prefix", "s3://bucket/../other", "hf://", "hf://datasets", "hf://datasets/user"]
)
def test_a_url_that_names_no_place_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(BundleError, match="names no place for a bundle; it should look like"):
        open_location(url, "tiny")


@pytest.mark.parametrize("url", ["https://host/path", "gs://bucket/x", "memory://x", "ssh://host/x"])
def test_other_kinds_of_place_are_refused(url: str) -> None:
    with pytest.raises(BundleError, match=r"Bundles lie in a folder, at s3://… or at hf://…, and \w+:// is none"):
        open_location(url, "tiny")


def test_a_bucket_that_is_not_there_and_a_server_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server():
        location = open_location("s3://no-such-bucket/x", "tiny")
        assert location.read_manifest() is None
        with pytest.raises(BundleError, match=r"s3://no-such-bucket/x/tiny cannot be written: .*bucket does not exist"):
            location.put_object("0" * 64, b"content")
        monkeypatch.setattr(
            "backtracking_assets.storage.bundles.location._S3_SETTINGS", {"retries": {"max_attempts": 0}}
        )
        gone = open_location("s3://results/x", "tiny")
        gone.filesystem.retries = 1
    for name, value in (("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("AWS_ACCESS_KEY_ID", "a"), ("NO_PROXY", "*")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-nobody-sees")
    with pytest.raises(BundleError, match=r"s3://results/x/tiny cannot be read: .*") as unreachable:
        gone.read_manifest()
    assert "a-secret-that-nobody-sees" not in str(unreachable.value)


def test_what_the_environment_keeps_secret_is_blotted_out_of_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame-open")
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")
    location = open_location("s3://bucket/x", "tiny")

    class Talkative:
        protocol = ("s3",)

        def invalidate_cache(self) -> None:
            raise RuntimeError("header: sesame-open hf_sesame at http://user:sesame-too@host/\nsecond line")

    object.__setattr__(location, "filesystem", Talkative())
    with pytest.raises(BundleError) as told:
        location.read_manifest()
    assert "sesame" not in str(told.value)
    assert "second line" not in str(told.value)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    location = open_location(str(tmp_path / "file"), "tiny")
    with pytest.raises(BundleError, match=r"file/tiny cannot be written: .*"):
        location.put_object("0" * 64, b"content")
