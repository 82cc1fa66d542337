"""to_roman(1994) is "MCMXCIV". The module is imported by each test, so that a broken one fails them all."""

import pytest


def to_roman(number):
    import roman

    return roman.to_roman(number)


@pytest.mark.parametrize(("number", "expected"), [(1, "I"), (5, "V"), (10, "X"), (50, "L"), (100, "C"), (1000, "M")])
def test_letters(number, expected):
    assert to_roman(number) == expected


@pytest.mark.parametrize(("number", "expected"), [(3, "III"), (8, "VIII"), (66, "LXVI"), (2600, "MMDC")])
def test_sums(number, expected):
    assert to_roman(number) == expected


@pytest.mark.parametrize(
    ("number", "expected"), [(4, "IV"), (9, "IX"), (40, "XL"), (90, "XC"), (400, "CD"), (900, "CM")]
)
def test_differences(number, expected):
    assert to_roman(number) == expected


@pytest.mark.parametrize(("number", "expected"), [(1994, "MCMXCIV"), (3999, "MMMCMXCIX")])
def test_long(number, expected):
    assert to_roman(number) == expected


@pytest.mark.parametrize("number", [0, 4000])
def test_bounds(number):
    with pytest.raises(ValueError):
        to_roman(number)
