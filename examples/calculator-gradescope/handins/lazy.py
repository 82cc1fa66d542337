"""Has Python do it: right wherever the text is an expression. What is none raises a SyntaxError, or worse."""


def evaluate(text):
    return eval(text)
