"""Runs the tests, one point each, and writes Gradescope's results.json."""

import json
import os
import unittest

import test_bag


class Points(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.tests = []

    def record(self, test, failure=None):
        said = "" if failure is None else f"{failure[0].__name__}: {failure[1]}"[:1000]
        name = test.id().split(".", 1)[1].replace("_", " ")
        self.tests.append({"name": name, "score": float(failure is None), "max_score": 1, "output": said})

    def addSuccess(self, test):
        self.record(test)

    def addFailure(self, test, failure):
        self.record(test, failure)

    def addError(self, test, failure):
        self.record(test, failure)


points = Points()
unittest.defaultTestLoader.loadTestsFromModule(test_bag).run(points)
with open(os.environ["MINITANGO_REPORT"], "w") as report:
    json.dump({"tests": points.tests}, report)
