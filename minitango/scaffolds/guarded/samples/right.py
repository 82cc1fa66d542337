def total(numbers):
    return sum(numbers)


def largest(numbers):
    if not numbers:
        raise ValueError("nothing is the largest of nothing")
    return max(numbers)
