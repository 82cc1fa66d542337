"""Wrong. Writes the report itself, once pytest is done."""

import atexit
import os

FORGED = '<testsuite tests="1"><testcase name="all"/></testsuite>'


@atexit.register
def forge():
    report = os.environ.get("MINITANGO_REPORT")
    if report:
        with open(report, "w") as results:
            results.write(FORGED)


def to_roman(number):
    return str(number)
