"""Draws the objects that an exported detector finds in an image, with numpy, OpenCV and onnxruntime only.

python demo/onnx_demo.py detector.onnx image.jpg picture.png

The file is one of `tools/deployment/export.py`. With `--custom-op`, it needs `--library onnxruntime_ops.so`, the path
of `mmvmamba.export.custom_op_library()`.
"""

import argparse
import json
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime


class Objects(NamedTuple):
    """The objects of an image, in descending order of their scores, in pixels of the image."""

    boxes: np.ndarray  # (N, 4), float32: x1, y1, x2, y2
    scores: np.ndarray  # (N,), float32
    labels: np.ndarray  # (N,), int64
    masks: np.ndarray | None = None  # (N, height, width), bool


def resized_shape(height: int, width: int, scale=None, scale_factor=1.0, keep_ratio=False) -> tuple[int, int]:
    """The size of an image after mmdet's transform Resize, with its arguments."""
    if scale is None:
        factors = scale_factor if isinstance(scale_factor, list) else (scale_factor, scale_factor)
        scale = [int(side * factor + 0.5) for side, factor in zip((width, height), factors)]
    elif isinstance(scale, int):
        scale = [scale, scale]
    if not keep_ratio:
        return scale[1], scale[0]
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return int(height * factor + 0.5), int(width * factor + 0.5)


def description(session: onnxruntime.InferenceSession) -> dict:
    """The description in the file: `classes`, and `steps`, mmdet's transforms that resize an image."""
    return json.loads(session.get_modelmeta().custom_metadata_map['mmvmamba'])


def detect(session: onnxruntime.InferenceSession, image: np.ndarray) -> Objects:
    """Finds the objects in a BGR image (height, width, 3), uint8."""
    steps = description(session)['steps']
    if steps is None or [step['type'] for step in steps] not in ([], ['Resize']):
        raise NotImplementedError(f'the images of this model need other steps than Resize: {steps}')
    resize = {
        key: value for step in steps for key, value in step.items() if key in ('scale', 'scale_factor', 'keep_ratio')
    }
    height, width = resized_shape(*image.shape[:2], **resize)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    images = np.ascontiguousarray(resized[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)  # RGB, (1, 3, H, W)
    outputs = session.run(None, {'images': images, 'size': np.array(image.shape[:2], np.int64)})
    return Objects(*map(np.asarray, outputs))


def draw(image: np.ndarray, objects: Objects, classes: list[str] | None, score_thr: float) -> np.ndarray:
    """Returns a copy of a BGR image with the objects whose score is at least `score_thr`."""
    picture = image.copy()
    for i in np.flatnonzero(objects.scores >= score_thr)[::-1]:  # the best ones last, on top
        label = int(objects.labels[i])
        colour = np.random.default_rng((label, i)).integers(64, 256, 3)
        if objects.masks is not None:
            mask = objects.masks[i]
            picture[mask] = (picture[mask] * 0.5 + colour * 0.5).astype(np.uint8)
        x1, y1, x2, y2 = objects.boxes[i].round().astype(int).tolist()
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour.tolist(), 2)
        name = classes[label] if classes and label < len(classes) else f'class {label}'
        text = f'{name} {objects.scores[i]:.2f}'
        cv2.putText(picture, text, (x1 + 4, y1 + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(picture, text, (x1 + 4, y1 + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='.onnx file of a detector')
    parser.add_argument('image', help='image file')
    parser.add_argument('out', help='picture to write')
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score to draw (default: %(default)s)')
    parser.add_argument('--library', help='library with the operators, for a file of --custom-op')
    args = parser.parse_args()
    image = cv2.imread(args.image)
    if image is None:
        parser.error(f'{args.image} cannot be read as an image')
    options = onnxruntime.SessionOptions()
    if args.library:
        options.register_custom_ops_library(args.library)
    session = onnxruntime.InferenceSession(args.model, options, providers=['CPUExecutionProvider'])
    if [value.name for value in session.get_inputs()] != ['images', 'size']:
        parser.error(f'{args.model} is not a whole detector: export it without --maps and --backbone')
    objects = detect(session, image)
    classes = description(session)['classes']
    if not cv2.imwrite(args.out, draw(image, objects, classes, args.score_thr)):
        parser.error(f'{args.out} cannot be written')
    print(f'{(objects.scores >= args.score_thr).sum()} objects with a score of at least {args.score_thr} in {args.out}')


if __name__ == '__main__':
    main()
