import subprocess
import sys
import unittest

PROGRAM = "/autograder/submission/sum.py"
SECONDS = 1


class TestSum(unittest.TestCase):
    def check(self, text, expected):
        try:
            program = subprocess.run(
                [sys.executable, PROGRAM],
                input=text.encode(),
                capture_output=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            self.fail(f"your program took longer than {SECONDS} s")
        if program.returncode != 0:
            self.fail("your program crashed, or ended with an exit status other than 0")
        printed = program.stdout.decode(errors="replace").strip()
        if printed != expected:
            self.fail(f"your program printed {printed[:60]!r}")

    def test_small(self):
        """small numbers"""
        self.check("1\n2\n3\n", "6")

    def test_negative(self):
        """a negative number"""
        self.check("5\n-12\n", "-7")

    def test_blank(self):
        """a blank line"""
        self.check("1\n\n2\n", "3")

    def test_large(self):
        """large numbers"""
        self.check("4000000000\n5\n", "4000000005")

    def test_nothing(self):
        """no number at all"""
        self.check("", "0")
