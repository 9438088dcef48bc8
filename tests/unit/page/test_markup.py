"""Nothing that a user wrote can become markup."""

from __future__ import annotations

import html

from hypothesis import given
from hypothesis import strategies as st

from slmpack.page.markup import Markup, Styles, isolated, join, tag, text


def test_strings_are_escaped_and_markup_is_not() -> None:
    assert tag("p", "<script>alert(1)</script>", tag("b", "&")) == (
        "<p>&lt;script&gt;alert(1)&lt;/script&gt;<b>&amp;</b></p>"
    )


def test_attributes_are_escaped_and_named_as_html_names_them() -> None:
    made = tag("a", href='"><script>', class_="x", aria_label="'", view_box="0 0 1 1", hidden=True, open=False, id=None)
    assert made == ('<a href="&quot;&gt;&lt;script&gt;" class="x" aria-label="&#x27;" viewBox="0 0 1 1" hidden></a>')


def test_an_attribute_may_be_called_name() -> None:
    assert tag("meta", name="viewport", content="a") == '<meta name="viewport" content="a">'


def test_children_may_be_nested_and_nothing() -> None:
    assert join("a", None, [tag("b"), ["<"]]) == "a<b></b>&lt;"


def test_what_no_document_may_hold_is_substituted() -> None:
    assert text("a\x00b\x1b[31m\ud800c\uffff\x85d\n\te") == "a\ufffdb\ufffd[31m\ufffdc\ufffd\ufffdd\n\te"


def test_a_name_keeps_its_direction_of_writing_to_itself() -> None:
    assert isolated("a\u202eb") == "<bdi>a\u202eb</bdi>"
    assert isolated("a", class_="x") == '<bdi class="x">a</bdi>'


@given(st.text())
def test_any_text_comes_back_as_it_was_and_can_be_encoded(words: str) -> None:
    made = text(words)
    assert isinstance(made, Markup)
    assert not set('<>"') & set(made)
    assert len(html.unescape(made.encode().decode())) <= len(words)


def test_widths_are_classes_between_nothing_and_everything() -> None:
    styles = Styles()
    assert [styles.width(part) for part in (0.12345, -1, 2, 0.5)] == ["w1234", "w0", "w10000", "w5000"]
    assert styles.css == ".w0{width:0%}.w1234{width:12.34%}.w5000{width:50%}.w10000{width:100%}"
