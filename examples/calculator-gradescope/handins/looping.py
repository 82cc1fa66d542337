"""Never ends, and swallows whatever would interrupt it."""


def evaluate(text):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
