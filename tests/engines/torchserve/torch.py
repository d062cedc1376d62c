"""What TorchServe's worker imports in place of PyTorch: a machine without accelerators. The models of the tests use none."""

__version__ = "0"


class Tensor:
    """No value is one."""


class cuda:  # noqa: N801, the name is PyTorch's
    """No device."""

    @staticmethod
    def is_available():
        """Says that there is none."""
        return False

    @staticmethod
    def device_count():
        """Counts none."""
        return 0


def is_tensor(_value):
    """Says no of any value."""
    return False
