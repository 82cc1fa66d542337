"""How to grade, and what is graded: assignments, from `assignment.toml` or built in code, and submissions.

parts        the values that it is made of: Step, SubmissionRule, Sample
model        Assignment
checks       what must hold of them, said with the key and the line
guarded      what must hold of a step beside which student code is run
loading      a path -> Assignment
toml_file    the tables of an assignment.toml -> values
adopting     another platform's autograder -> Assignment
autograders/ what those ask for, one module a platform
places       which line of a TOML file each key is on
files        the instructor's files of a step
plan         what a runner needs to know of an assignment: Plan, in blobs
    submission   hand-ins: Submission, where its files land, and which ones there are below a path
"""

from minitango.assignment.model import Assignment
from minitango.assignment.parts import Sample, Step, SubmissionRule
from minitango.assignment.plan import Packed, Plan, PlanStep
from minitango.assignment.submission import Handin, Submission, find_handins

__all__ = [
    "Assignment",
    "Handin",
    "Packed",
    "Plan",
    "PlanStep",
    "Sample",
    "Step",
    "Submission",
    "SubmissionRule",
    "find_handins",
]
