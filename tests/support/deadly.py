"""Work for other processes that ends one of them, or takes its time; imports nothing that is slow."""

import os
import time

DEADLY = 70


def double(number: int) -> int:
    if number == DEADLY:
        os._exit(1)
    return 2 * number


def slow(number: int) -> int:
    time.sleep(0.01)
    return number
