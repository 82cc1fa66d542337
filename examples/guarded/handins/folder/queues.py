from collections import deque


class Queue(deque):
    put = deque.append
    get = deque.popleft
