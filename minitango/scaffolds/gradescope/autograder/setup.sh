#!/usr/bin/env bash
# What the tests need beside python3, such as:
#     apt-get install -y python3-numpy
