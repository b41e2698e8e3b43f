"""What a backbone implements so that its released checkpoints can be loaded."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class CheckpointSpec(Protocol):
    """Describes the keys and tensors in the released checkpoints of a model family.

    This package uses no other members of a backbone. `mmvmamba.models.backbone.Backbone` has defaults for all of them.

    Attributes:
        missing_ok: prefixes of keys that may be missing, because a released classifier does not have them.
        unexpected_ok: prefixes of keys that are not loaded, because only other models have them.
        classifier_keys: prefixes of keys in a released classifier, and their replacements in mmpretrain's
            `ImageClassifier`. If several have the same replacement, conversion to the released keys uses the first.
    """

    missing_ok: tuple[str, ...]
    unexpected_ok: tuple[str, ...]
    classifier_keys: dict[str, str]

    def state_dict(self) -> dict[str, Any]: ...

    @staticmethod
    def rename_checkpoint_key(key: str) -> str:
        """Returns the key in this model for a key in any released checkpoint."""
        ...

    def resize_checkpoint_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Resizes tensors that depend on the image size.

        The keys are those of the checkpoint without the prefix `backbone.`, before `rename_checkpoint_key`.
        """
        ...

    def keys_to_skip(self, keys: Iterable[str]) -> set[str]:
        """Returns checkpoint keys that are not loaded although this model has them, because they have another role.

        An example: the norm before the head of a classifier has the key of one of the output norms of a detector's
        backbone. Keys that the model does not have belong in `unexpected_ok`. `keys` have no prefix `backbone.`.
        """
        ...

    def describe_mismatch(self, tensors: dict[str, Tensor]) -> str:
        """Returns a one-line reason why a checkpoint does not fit, such as the released variant that it belongs to."""
        ...
