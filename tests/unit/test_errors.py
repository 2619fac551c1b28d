"""What comes from outside is made fit to be printed."""

import pytest

from nonlocalnet.errors import FileError, check_choice, printable, shown

HOSTILE = "\x1b[31m\x9b2J\r\n\b\x00\u202e\u2028\udcff\u00ad"


def test_what_acts_or_hides_is_written_out():
    said = printable(f"a{HOSTILE}b")
    assert said.isprintable()
    assert said == r"a\x1b[31m\x9b2J\r\n\x08\x00\u202e\u2028\udcff\xadb"


WORDS = ["naïve", "日本\u3000語", "نمی\u200cشود", "👩\u200d🔬", "a\u00a0b", "~/my files/x.mp4"]


@pytest.mark.parametrize("text", WORDS)
def test_words_of_any_language_stay(text):
    assert printable(text) == text


def test_long_text_keeps_its_ends():
    said = printable("a" + "x" * 100_000 + "b", limit=20)
    assert len(said) == 20
    assert (said[0], said[-1]) == ("a", "b")
    assert len(shown({"x" * 10_000: [["y" * 10_000] * 10_000] * 10_000})) <= 1000


def test_errors_of_files_and_of_choices_are_printable_and_short():
    with pytest.raises(ValueError, match="model must be one of") as choice:
        check_choice("model", HOSTILE * 10_000, ["a", "b"])
    file = FileError(f"clip{HOSTILE}.mp4", f"it is {HOSTILE}" + "x" * 100_000)
    for error in (choice.value, file):
        assert str(error).isprintable()
        assert len(str(error)) < 1200
