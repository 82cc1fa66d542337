"""What a test is worth, and who sees it when."""


def worth(points, visibility="visible"):
    def mark(method):
        method.points, method.visibility = points, visibility
        return method

    return mark
