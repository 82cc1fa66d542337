#!/bin/sh
cd /grade && exec python3 tests/grader.py
