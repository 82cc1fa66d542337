"""Runs the tests and writes the report: Gradescope's results.json."""

import json
import os

from test_stats import TESTS


def failure(test):
    """What went wrong; empty where nothing did."""
    try:
        test()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:1000]
    return ""


results = []
for test, points in TESTS:
    said = failure(test)
    name = test.__name__.replace("_", " ")
    results.append({"name": name, "score": 0 if said else points, "max_score": points, "output": said})
with open(os.environ["MINITANGO_REPORT"], "w") as report:
    json.dump({"tests": results}, report)
