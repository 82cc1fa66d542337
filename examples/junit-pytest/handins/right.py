"""Roman numerals."""

SIGNS = {
    1000: "M", 900: "CM", 500: "D", 400: "CD", 100: "C", 90: "XC",
    50: "L", 40: "XL", 10: "X", 9: "IX", 5: "V", 4: "IV", 1: "I",
}  # fmt: skip


def to_roman(number):
    if not 1 <= number <= 3999:
        raise ValueError(f"{number} is not from 1 to 3999")
    written = ""
    for value, sign in SIGNS.items():
        while number >= value:
            written += sign
            number -= value
    return written
