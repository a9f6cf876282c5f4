"""Whatever a learner returns gets one clear sentence, and a mistake is named only when it is seen."""

import numpy as np
import pytest
import torch

from utils.checks.diagnose import (
    borrowed,
    check_answers,
    diagnose,
    explained,
    number,
    refuses,
    sizes,
    unpack,
    untouched,
    whole,
)

RIGHT = torch.tensor([1.0, 2.0, 3.0])
WRONG = {"you doubled it": 2 * RIGHT, "twice too much": 2 * RIGHT, "turned round": RIGHT.flip(0)}


@pytest.mark.parametrize(
    "found", [RIGHT, RIGHT.double(), RIGHT.numpy(), [1, 2, 3], (1.0, 2.0, 3.0), RIGHT[None]]
)
def test_every_kind_of_right_answer_is_right(found):
    diagnose(found, RIGHT, WRONG)


@pytest.mark.parametrize(
    "found, words",
    [
        (RIGHT.flip(0), "^turned round$"),
        (2 * RIGHT, "^you doubled it; or: twice too much$"),
        (RIGHT + 0.5, r"^the result at \(0,\): 1.5, should be 1$"),
        (None, "nothing is returned"),
        ("three", "numbers were expected, not 'three'"),
        (RIGHT[:2], r"should have shape \(3,\), it has \(2,\)"),
        (1j * RIGHT, "complex"),
        (torch.full((3,), torch.nan), "nan, should be"),
    ],
)
def test_wrong_answers_get_one_sentence(found, words):
    with pytest.raises(AssertionError, match=words):
        diagnose(found, RIGHT, WRONG)


def test_a_mistake_that_gives_the_right_result_is_passed_over():
    with pytest.raises(AssertionError, match="should be 1"):
        diagnose(RIGHT + 1, RIGHT, {"no mistake at all": RIGHT})
    diagnose(torch.tensor([[7.0]]), 7)
    with pytest.raises(AssertionError, match="one number was expected, not 2"):
        diagnose([7, 7], 7)


def test_sizes_are_different_and_follow_the_seed():
    assert sizes(3) == [2, 3, 5]
    drawn = [tuple(sizes(3, seed)) for seed in range(1, 9)]
    assert len(set(drawn)) > 3 and all(len(set(one)) == 3 for one in drawn)
    assert drawn == [tuple(sizes(3, seed)) for seed in range(1, 9)]


def test_numbers_and_pairs():
    assert number(np.float32(2.5), "x") == 2.5 and whole(torch.tensor([4.0]), "x") == 4
    assert unpack([1, 2], "a", "b") == [1, 2] and unpack(torch.tensor([1, 2]), "a", "b")[1] == 2
    for call, words in [
        (lambda: number([1, 2], "x"), "x: one number was expected, not 2"),
        (lambda: whole(2.5, "x"), "x: a whole number was expected, not 2.5"),
        (lambda: whole(float("nan"), "x"), "x: a whole number was expected, not nan"),
        (lambda: whole(torch.tensor(torch.inf), "x"), "x: a whole number was expected, not inf"),
        (lambda: unpack(None, "a", "b"), "return 2 things: a, b; you return nothing"),
        (lambda: unpack((1, 2, 3), "a", "b"), "return 2 things: a, b; you return 3"),
    ]:
        with pytest.raises(AssertionError, match=words):
            call()


def test_refusals():
    def raises(error):
        def call():
            raise error

        return call

    assert str(refuses(raises(ValueError("no")), "7 of 6")) == "no"
    with pytest.raises(AssertionError, match="7 of 6: raise a ValueError; yours raises KeyError"):
        refuses(raises(KeyError("x")), "7 of 6")
    with pytest.raises(AssertionError, match="7 of 6: raise a ValueError, do not return 3"):
        refuses(lambda: 3, "7 of 6")
    with pytest.raises(NotImplementedError):
        refuses(raises(NotImplementedError("write your answer here")), "7 of 6")


ANSWERS = {"moves": True, "letter": "A", "pair": (2, 3), "share": 0.47}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"letter": None}, "answer all 4 first; 'letter' is still open"),
        ({"moves": 1}, "'moves': answer with True or False, not 1"),
        ({"letter": 3}, "'letter': answer with a text"),
        ({"pair": (2,)}, "'pair': answer with 2 numbers"),
        ({"share": "half"}, "'share': answer with a number"),
        ({"moves": False}, "'moves': False is not right. Think again"),
        ({"share": 0.46}, "'share': 0.46 is not right"),
        ({"more": 1}, "nobody asked for 'more'"),
        ({"more": 1, 7: 2}, "nobody asked for 'more', 7"),
    ],
)
def test_a_table_of_answers(change, words):
    check_answers(ANSWERS, ANSWERS)
    check_answers(
        ANSWERS | {"moves": torch.tensor(True), "pair": np.array([2, 3]), "share": 0.4705}, ANSWERS
    )
    with pytest.raises(AssertionError, match=words):
        check_answers(ANSWERS | change, ANSWERS, {"moves": "think again"})
    with pytest.raises(AssertionError, match="return the dict"):
        check_answers(list(ANSWERS), ANSWERS)


def test_what_came_in_must_stay_as_it_was():
    x, names = torch.ones(3), ["a", "b"]
    assert torch.equal(untouched(lambda x: x + 1, x), x + 1)
    assert untouched(lambda x, names: names[::-1], x, names) == ["b", "a"]
    with pytest.raises(AssertionError, match="^what came in was changed"):
        untouched(lambda x: x.add_(1), x)
    with pytest.raises(AssertionError, match="argument number 2, which came in, was changed"):
        untouched(lambda x, names: names.pop(), x, names)
    with pytest.raises(AssertionError, match="was changed"):
        untouched(lambda clip: clip.fill(0), np.ones((2, 2)))
    assert torch.equal(x, torch.ones(3)) and names == ["a", "b"]  # it works on copies


def test_an_error_is_explained_and_what_is_not_written_stays_so():
    with pytest.raises(AssertionError, match="your answer fails: 'b'. Look for the letter"):
        with explained("look for the letter", KeyError):
            {}["b"]
    with (
        pytest.raises(NotImplementedError),
        explained("a RuntimeError, as it happens", RuntimeError),
    ):
        raise NotImplementedError
    with pytest.raises(TypeError), explained("another kind", ValueError):
        len(3)


def test_a_secret_result_is_not_told():
    with pytest.raises(AssertionError, match="^the share: 0.5 is not right. Count again$"):
        diagnose(0.5, 0.25, {}, "the share", "count again", secret=True)


@pytest.mark.parametrize("before", ["def helper(): return 'wrong'", ""])
def test_a_mistake_in_an_earlier_task_costs_once(before):
    """Also where that task's function was never defined; afterwards all is as it was."""
    notebook = {}
    exec(f"{before}\ndef later(): return helper()", notebook)
    names = set(notebook)
    with borrowed(notebook["later"], helper=lambda: "right"):
        assert notebook["later"]() == "right"
    assert set(notebook) == names
    if before:
        assert notebook["later"]() == "wrong"
    with pytest.raises(KeyError), borrowed(notebook["later"], helper=dict):
        raise KeyError
    assert set(notebook) == names
