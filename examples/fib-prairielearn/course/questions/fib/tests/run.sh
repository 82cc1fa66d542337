#!/bin/sh
# The entrypoint. The hand-in is in /grade/student, the results are to be in /grade/results.
mkdir -p /grade/results
PYTHONPATH=/grade/serverFilesCourse/grading python3 /grade/tests/grade.py
