"""Calls the student's fib(n), each time in a process of its own, and writes the results."""

from results import Results
from student import Failed, call, problem_in

CASES = [
    ("the first two", 1, {0: 0, 1: 1}),
    ("small ones", 3, {2: 1, 3: 2, 10: 55}),
    ("large ones", 3, {90: 2880067194370816120, 200: 280571172992510140037611932413038677189525}),
]

results = Results("fib.py")
wrong = problem_in("fib.py")
if wrong:
    results.refuse(wrong)
else:
    for name, points, expected in CASES:
        with results.test(name, points) as test:
            for n, value in expected.items():
                got = call("fib", "fib", n)
                if got != repr(value):
                    test.fail(f"fib({n}) is {got}")
                    break
    with results.test("a negative one", 3) as test:
        try:
            test.fail(f"fib(-1) is {call('fib', 'fib', -1)}")
        except Failed as failed:
            if failed.name != "ValueError":
                raise
results.write()
