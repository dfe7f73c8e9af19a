"""Errors of other libraries in our words, and lists cut short in messages."""

from __future__ import annotations

import pytest

from asap_eval.errors import BadValueError, DataError, message, reraised, some_of


@pytest.mark.parametrize(
    ("raised", "comes"),
    [
        (KeyError("x"), DataError),
        (OSError("x"), DataError),
        (MemoryError(), MemoryError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (BadValueError("x"), BadValueError),
    ],
)
def test_errors_of_libraries_alone_are_put_in_our_words(
    raised: BaseException, comes: type[BaseException]
) -> None:
    with pytest.raises(comes) as found, reraised(DataError, lambda _: "it is damaged"):
        raise raised
    if comes is DataError:
        assert (str(found.value), found.value.__cause__) == ("it is damaged", raised)
    else:
        assert found.value is raised


def test_a_reason_is_one_line() -> None:
    assert message(ValueError(" torn\nat byte 7")) == "torn"
    assert message(ValueError()) == "ValueError"


def test_a_long_list_says_how_it_goes_on() -> None:
    assert some_of("abc", 3, " and {} more") == "a, b, c"
    assert some_of("abcde", 3) == "a, b, c, ..."
    assert some_of("abcde", 3, " and {} more") == "a, b, c and 2 more"
    assert some_of((), 3) == ""
