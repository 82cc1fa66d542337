"""Never ends, and ignores whoever asks it to."""

import signal

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)


def fib(n):
    while True:
        pass
