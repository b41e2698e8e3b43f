"""Limits the cost of reading a file in proportion to its size."""

from .errors import UnsafeCheckpoint

UNIT = 128  # bytes of memory per unit, at most
FREE_UNITS = 2**20  # for a file of any size
BYTES_PER_UNIT = 32  # a file may cost one more unit for each 32 of its bytes
CALL = 8  # units per call, which may create an object with additional overhead, such as a tensor
FREE_TENSORS = 2**31  # bytes of all tensors, expanded, for a file of any size
TENSORS_PER_BYTE = 4  # and for each byte of the file
MOST_NUMERIC_KEYS = 2**15
LARGEST_KEY = 2**53


class Budget:
    """Counts the instructions, objects and copies that a file causes, and rejects a file that needs too many.

    One unit is an instruction of a pickle or up to 128 bytes of memory. Beyond the bytes of its tensors and strings, a
    file can therefore use at most 128 MiB and four times its size.

    Args:
        file_size: size of the file in bytes.
    """

    def __init__(self, file_size: int):
        self.left = FREE_UNITS + file_size // BYTES_PER_UNIT
        self._tensors_left = FREE_TENSORS + file_size * TENSORS_PER_BYTE
        self._numeric_keys = 0

    def spend(self, units: int = 1) -> None:
        """
        Raises:
            UnsafeCheckpoint: fewer units are left.
        """
        self.left -= units
        if self.left < 0:
            raise UnsafeCheckpoint('far more objects than a file of its size needs')

    def spend_bytes(self, count: int) -> None:
        """Accounts for a copy."""
        self.spend(count // UNIT)

    def spend_tensor(self, count: int) -> None:
        """Accounts for a tensor by the size of its elements after expansion.

        As a view of a storage, the tensor needs no memory here, but code that uses the checkpoint may copy it.
        """
        self._tensors_left -= count
        if self._tensors_left < 0:
            raise UnsafeCheckpoint('tensors that are far larger than the file when they are written out')

    def check_key(self, key: object) -> None:
        """Checks a key of a dict or an element of a set.

        Hashing a nested tuple can take forever, and numbers can be chosen so that their hashes or their positions in
        the table of a dict collide. The hashes of strings are randomised.

        Raises:
            UnsafeCheckpoint: neither a string nor a number, a large integer, or too many numbers.
        """
        if key is None or type(key) in (str, bytes):
            return
        if type(key) not in (int, float, bool):
            raise UnsafeCheckpoint(f'a key of type {type(key).__name__}')
        if type(key) is int and abs(key) > LARGEST_KEY:
            raise UnsafeCheckpoint('a key of more than 53 bits')
        self._numeric_keys += 1
        if self._numeric_keys > MOST_NUMERIC_KEYS:
            raise UnsafeCheckpoint(f'more than {MOST_NUMERIC_KEYS:,} numbers as keys')
