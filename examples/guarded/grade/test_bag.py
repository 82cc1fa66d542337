"""What is asked of bag.py. No line of it runs here: `student` calls it in a sandbox of its own, and what it answers
comes back as plain values, so that `==` here is Python's own and not the student's."""

import math
import unittest

from minitango_student import Student, StudentError

student = Student("bag", timeout=5)


class Merge(unittest.TestCase):
    def test_two_lists(self):
        self.assertEqual(student.call("merge", [1, 4], [2, 3, 9]), [1, 2, 3, 4, 9])

    def test_an_empty_list(self):
        self.assertEqual(student.call("merge", [], [5, 6]), [5, 6])
        self.assertEqual(student.call("merge", [], []), [])

    def test_equals_stay(self):
        self.assertEqual(student.call("merge", ["a", "b"], ["a", "b"]), ["a", "a", "b", "b"])

    def test_many(self):
        merged = student.call("merge", list(range(0, 2000, 2)), list(range(1, 2000, 2)))
        self.assertTrue(merged == list(range(2000)), "a long list is merged wrongly")  # not printed in full


class Mean(unittest.TestCase):
    def test_of_whole_numbers(self):
        self.assertEqual(student.call("mean", [1, 2, 6]), 3)

    def test_of_fractions(self):
        # never `assertFalse(abs(got - 0.2) > 1e-9)`: a student's nan would pass that
        self.assertTrue(math.isclose(student.call("mean", [0.1, 0.2, 0.3]), 0.2))

    def test_of_nothing(self):
        self.assertEqual(student.call("mean", [5]), 5)  # else what is an error whatever is asked would earn this
        with self.assertRaises(StudentError) as caught:
            student.call("mean", [])
        self.assertEqual(caught.exception.type, "ValueError")


class Queue(unittest.TestCase):
    def test_first_in_first_out(self):
        queue = student.make("Queue")
        for item in ("ada", "bob", "eve"):
            queue.call("put", item)
        self.assertEqual([queue.call("get") for _ in range(3)], ["ada", "bob", "eve"])

    def test_its_length(self):
        queue = student.make("Queue")
        self.assertEqual(queue.call("__len__"), 0)
        queue.call("put", 1)
        self.assertEqual(queue.call("__len__"), 1)

    def test_nothing_to_get(self):
        queue = student.make("Queue")
        queue.call("put", 1)
        self.assertEqual(queue.call("get"), 1)
        with self.assertRaises(StudentError) as caught:
            queue.call("get")
        self.assertEqual(caught.exception.type, "IndexError")
