"""minitango grades programming submissions: a durable queue, a sandbox for each, an honest score.

from minitango import Assignment, Engine, Submission

with Engine.open("course/.minitango") as engine:
    job = engine.submit(Submission(Assignment.load("hw1"), student="ada", files="handins/ada.py"))
    print(job.result(timeout=120).score)
"""

from minitango import starting as starting  # before all that takes time to load

# isort: split

import logging

from minitango.assignment import Assignment, Sample, Step, Submission, SubmissionRule
from minitango.callback_url import Callbacks
from minitango.engine import Engine
from minitango.errors import (
    ArchiveError,
    AssignmentError,
    BlobError,
    ConfigError,
    EngineRunning,
    EngineStopped,
    GraderSuspected,
    JobDead,
    JobNotFound,
    MinitangoError,
    NothingToGrade,
    SampleMissed,
    SandboxFailed,
    SandboxUnavailable,
    StoreError,
    StoreFull,
    StoreTooNew,
    SubmissionError,
    UnavailableError,
)
from minitango.events import Event
from minitango.feedback import student_view
from minitango.handle import JobHandle
from minitango.job import Delivery, Job, Limits, Outcome, Result, State, TestResult, Trust, Usage
from minitango.text import safe_record
from minitango.trial import Trial

__version__ = "0.1.0"

logging.getLogger("minitango").addFilter(safe_record)

__all__ = [
    "ArchiveError",
    "Assignment",
    "AssignmentError",
    "BlobError",
    "Callbacks",
    "ConfigError",
    "Delivery",
    "Engine",
    "EngineRunning",
    "EngineStopped",
    "Event",
    "GraderSuspected",
    "Job",
    "JobDead",
    "JobHandle",
    "JobNotFound",
    "Limits",
    "MinitangoError",
    "NothingToGrade",
    "Outcome",
    "Result",
    "Sample",
    "SampleMissed",
    "SandboxFailed",
    "SandboxUnavailable",
    "State",
    "Step",
    "StoreError",
    "StoreFull",
    "StoreTooNew",
    "Submission",
    "SubmissionError",
    "SubmissionRule",
    "TestResult",
    "Trial",
    "Trust",
    "UnavailableError",
    "Usage",
    "student_view",
]
