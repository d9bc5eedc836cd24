"""Messages are one plain line, whatever the exceptions and names in them hold."""

import pickle

import pytest
import ray

from streamtrain.errors import JobError, complaint, one_line, users_code


def test_promise_10_a_message_carries_no_colours_of_ray_s() -> None:
    trace = "Traceback (most recent call last):\nValueError: a bad value"
    failed = ray.exceptions.RayTaskError("train", trace, ValueError("a bad value"))
    assert "\x1b" in str(failed), "Ray no longer colours: this test tests nothing"
    line = one_line(failed)
    assert "\x1b" not in line and "[36m" not in line and "\n" not in line and line.endswith("ValueError: a bad value")
    whole = complaint("the workers", expected="a loss", found=str(failed), do="repair the model")
    assert whole.isprintable() and "[36m" not in whole and "[39m" not in whole
    assert pickle.loads(pickle.dumps(JobError(whole))).args == (whole,)


def test_a_users_coloured_exception_is_told_in_plain_words() -> None:
    with pytest.raises(JobError) as told, users_code("loss"):
        raise RuntimeError("\x1b[1;31mred\x1b[0m alert")
    assert "RuntimeError: red alert" in str(told.value) and "\x1b" not in str(told.value)
