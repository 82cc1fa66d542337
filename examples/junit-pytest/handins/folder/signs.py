"""The signs, the largest first."""

VALUES = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
SIGNS = list(zip(VALUES, "M CM D CD C XC L XL X IX V IV I".split()))
