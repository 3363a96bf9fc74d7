"""Work in several processes: answers in order, errors as they are, and a sentence for a process that was killed."""

import os
import signal

import pytest

from sources.errors import DataError, UserError
from sources.processes import in_processes


def double(number: int) -> int:
    if number < 0:
        raise DataError(f"{number} is below 0.")
    if number > 1000:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_answers_come_in_order_and_errors_as_they_are(workers: int) -> None:
    assert list(in_processes(double, iter(range(20)), workers, "doubled")) == list(range(0, 40, 2))
    answers = in_processes(double, [1, -2, 3], workers, "doubled")
    assert next(answers) == 2
    with pytest.raises(DataError, match=r"-2 is below 0\."):
        next(answers)


def test_a_process_that_is_killed_is_a_sentence() -> None:
    with pytest.raises(UserError, match="a process that doubled numbers was killed, perhaps for lack of memory"):
        list(in_processes(double, [1, 2000, 3], 2, "doubled numbers"))
