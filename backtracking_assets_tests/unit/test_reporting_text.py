"""Completions are foreign text: nothing in them may reach the page as markup, hide, or blow it up."""

import re
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backtracking_assets.reporting.contents import Event
from backtracking_assets.reporting.text import MAX_CHARACTERS, cut_middle, is_hidden, marked_text, shorten, visible

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=200)  # lone surrogates too
EVENTS = st.lists(
    st.builds(Event, st.integers(-5, 250), st.integers(-5, 250), st.sampled_from(["strict", "relaxed"])), max_size=8
)
TAG = re.compile(r'</?(?:mark|span)(?: class="(?:strict|relaxed|hidden-character|cut)")?>')


def test_triggers_are_marked_by_kind() -> None:
    shown = marked_text("Wait, a mistake", [Event(8, 15, "relaxed"), Event(0, 4, "strict")])
    assert shown == '<mark class="strict">Wait</mark>, a <mark class="relaxed">mistake</mark>'


def test_markup_in_a_completion_is_escaped_inside_and_outside_marks() -> None:
    shown = marked_text("<b>&\"'<i>", [Event(3, 4, "strict")])
    assert shown == '&lt;b&gt;<mark class="strict">&amp;</mark>&#34;&#39;&lt;i&gt;'


def test_overlapping_events_become_neighbors() -> None:
    shown = marked_text("abcdef", [Event(0, 4, "strict"), Event(2, 6, "relaxed")])
    assert shown == '<mark class="strict">abcd</mark><mark class="relaxed">ef</mark>'


@pytest.mark.parametrize(
    "character", ["\u202e", "\u2066", "\u200b", "\x00", "\x1b", "\r", "\ufeff", "\ud800", "\ue000"]
)
def test_hidden_characters_are_written_as_code_points(character: str) -> None:
    assert visible(f"a{character}b") == f"a⟨U+{ord(character):04X}⟩b"
    assert f"⟨U+{ord(character):04X}⟩" in marked_text(f"a{character}b", [])


@pytest.mark.parametrize("text", ["a\tb\nc", "naïve", "数学", "1\u00a0000", "≈ 🙂"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text
    assert marked_text(text, []) == text


@given(ANY_TEXT, EVENTS)
def test_any_text_keeps_its_characters_and_gains_no_markup(text: str, events: list[Event]) -> None:
    shown = str(marked_text(text, events))
    bare = TAG.sub("", shown)
    assert "<" not in bare
    assert unescape_marks(bare) == visible(text)
    assert not any(map(is_hidden, shown))
    shown.encode()  # lone surrogates would raise


@given(ANY_TEXT, EVENTS)
def test_marks_are_balanced(text: str, events: list[Event]) -> None:
    shown = str(marked_text(text, events))
    assert shown.count("<mark ") == shown.count("</mark>") <= len(events)


@given(ANY_TEXT, st.integers(2, 250))
def test_cutting_keeps_start_and_end_and_counts_the_rest(text: str, limit: int) -> None:
    head, left_out, tail = cut_middle(text, limit)
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(head) + left_out + len(tail) == len(text)
    assert len(head) + len(tail) <= max(limit, 0)


def test_a_completion_of_ten_megabytes_makes_a_small_page() -> None:
    text = "<Wait>" * 1_700_000
    events = [Event(start, start + 4, "strict") for start in range(1, 60_000, 6)]
    shown = marked_text(text, events)
    assert len(shown) < 150_000
    assert f"{len(text) - MAX_CHARACTERS:,} characters left out, 9,500 marked triggers among them" in shown
    assert shown.count("<mark ") == 500


def test_a_mark_across_the_cut_is_shown_on_both_sides() -> None:
    shown = marked_text("abcdefghij", [Event(1, 9, "strict")], limit=4)
    assert shown.startswith('a<mark class="strict">b</mark>')
    assert shown.endswith('<mark class="strict">i</mark>j')


def test_shorten_says_how_much_is_gone() -> None:
    assert shorten("abcdefghij", 4) == "ab […6 characters left out…] ij"
    assert shorten("abcd", 4) == "abcd"
    with pytest.raises(ValueError, match="cannot be cut"):
        cut_middle("abc", 1)


def unescape_marks(text: str) -> str:
    """The text behind the five escapes that are used; html.unescape knows many more that a completion may hold."""
    return re.sub(r"&(?:amp|lt|gt|#34|#39);", lambda match: unescape(match[0]), text)
