"""Wrong. Lays a second report beside the real one, with tests that passed: each test of each file counts."""

import os

report = os.environ.get("MINITANGO_REPORT")
if report:
    cases = "".join(f'<testcase name="more {number}"/>' for number in range(180))
    with open(os.path.join(os.path.dirname(report), "more.xml"), "w") as more:
        more.write(f"<testsuite>{cases}</testsuite>")


def to_roman(number):
    return str(number)
