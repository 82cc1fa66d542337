"""Dies before it has read anything."""

numbers = []
print(numbers[0])
