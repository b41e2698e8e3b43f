import pytest
import torch


@pytest.fixture
def threads():
    """Returns a function that sets the number of PyTorch threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
