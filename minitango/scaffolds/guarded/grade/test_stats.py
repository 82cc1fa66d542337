"""What is asked of stats.py: each test is a function, with the points that it is worth."""

from minitango_student import Student, StudentError

student = Student("stats", timeout=2)  # seconds that a call may take
TESTS = []


def worth(points):
    def mark(test):
        TESTS.append((test, points))
        return test

    return mark


def same(got, wanted):
    assert got == wanted, f"it should be {wanted!r}, and was {got!r}"


@worth(2)
def total_of_some_numbers():
    same(student.call("total", [1, 2, 3]), 6)


@worth(2)
def total_of_negative_numbers():
    same(student.call("total", [1, -2, -3]), -4)


@worth(2)
def total_of_nothing():
    same(student.call("total", []), 0)


@worth(2)
def largest_of_some_numbers():
    same(student.call("largest", [1, 3, 2]), 3)


@worth(2)
def largest_of_nothing():
    same(student.call("largest", [3]), 3)  # else what is an error whatever is asked would earn this
    try:
        got = student.call("largest", [])
    except StudentError as error:
        same(error.type, "ValueError")
    else:
        raise AssertionError(f"it should be a ValueError, and was {got!r}")
