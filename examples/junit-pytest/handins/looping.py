"""Never ends, and ignores whoever asks it to."""

import signal


def to_roman(number):
    for which in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(which, signal.SIG_IGN)
    while True:
        pass
