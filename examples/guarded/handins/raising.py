"""Is the error that some tests ask for, whatever is asked: it cannot even be imported."""

raise ValueError("the mean of nothing")
