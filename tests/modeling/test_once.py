"""Work that several readers of one tensor share is done once, and never for another tensor or on other grounds."""

import gc

import torch
from ptqflow.modeling.once import Once


def test_the_same_tensor_and_the_same_grounds_are_asked_once():
    asked, once, ground = [], Once[int](), object()
    x, equal = torch.ones(2), torch.ones(2)

    def count(tensor):
        asked.append(tensor)
        return len(asked)

    assert [once(x, count, ground), once(x, count, ground), once(x, count, object()), once(equal, count, ground)] == [1, 1, 2, 3]


def test_a_result_is_held_no_longer_than_its_tensor():
    once, x = Once[list](), torch.ones(2)
    once(x, lambda tensor: [tensor.sum()])
    del x
    gc.collect()
    assert once._last is None
