"""Dies before it has anything to be called."""

numbers = []
print(numbers[0])
