"""A detector with the preprocessing of its config, from an image to objects."""

from typing import Any

from torch import Tensor, nn

from .padding import pad_image
from .whole_detector import WholeDetector


class ImageDetector(nn.Module):
    """Predicts the objects of a resized image, in pixels of the original.

    Args:
        model: a detector of mmdet.
        pipeline: the test pipeline of its config. Its padding becomes part of the model.
        normalise: module from RGB images (B, 3, H, W), 0 to 255, to the normalised input of the model.

    Raises:
        UnsupportedDetector: a head, or a setting of the `test_cfg`, cannot be exported.
    """

    def __init__(self, model: Any, pipeline: list[dict], normalise: nn.Module):
        super().__init__()
        self.detector = WholeDetector(model)
        self.outputs = self.detector.outputs
        self.normalise = normalise
        self.paddings = [_padding(step) for step in pipeline if str(step['type']).endswith('Pad')]
        preprocessor = model.data_preprocessor
        self.divisor: int = getattr(preprocessor, 'pad_size_divisor', 1)
        self.value: float = getattr(preprocessor, 'pad_value', 0)

    def forward(self, images: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Maps an image (1, 3, H, W) and the (height, width) of the original to the outputs of `WholeDetector`."""
        resized = images.shape[2:]
        for padding in self.paddings:
            images = pad_image(images, **padding)
        x = pad_image(self.normalise(images), size_divisor=self.divisor, value=self.value)
        return self.detector(x, size, resized, images.shape[2:])


def _padding(step: dict) -> dict[str, Any]:
    """The arguments of `pad_image` for RGB images, for a transform that pads BGR images."""
    value = step.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, dict) else value
    return dict(
        size=step.get('size'),
        size_divisor=step.get('size_divisor'),
        pad_to_square=step.get('pad_to_square', False),
        value=list(reversed(value)) if isinstance(value, (list, tuple)) else value,
    )
