"""Predictions of the ONNX files of export.py, with numpy, OpenCV, Pillow and onnxruntime only."""

import base64
import json
import os
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import onnxruntime
from PIL import Image
from preprocessing import ImageError, check_pixels, pad, resize

Image.MAX_IMAGE_PIXELS = None  # `read` compares with its own limit
FORMATS = ('BMP', 'JPEG', 'PNG', 'TIFF', 'WEBP')
TASKS = ('classification', 'segmentation', 'detection')
TOP = 5  # classes of a classifier
OPACITY = 0.5  # of classes and masks in pictures


class Predictor:
    """A session of onnxruntime, with what the description in the file adds: preprocessing and names.

    It can be used by several threads at once.

    Args:
        path: a file of export.py.
        operators: onnxruntime_ops.so, for files that were exported with `--custom-op`.
        threads: of the session; 0 for all processors of this process.
        max_pixels: limit of an image, before and after resizing.

    Raises:
        ValueError: the file cannot be used; one sentence.
    """

    def __init__(self, path: str, operators: str | None = None, threads: int = 0, max_pixels: int = 25_000_000):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')  # idle threads use no time
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # both keep memory for each size of image
        options.log_severity_level = 3
        try:
            if operators:
                options.register_custom_ops_library(operators)
            self.session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        except Exception as error:  # onnxruntime has many types of errors
            reason = ' '.join(str(error).split())[:300]
            if 'mmvmamba' in reason and not operators:
                raise ValueError(
                    f'onnxruntime cannot open {path}: pass its library with --operators ({reason})'
                ) from error
            raise ValueError(f'onnxruntime cannot open {path} ({reason})') from error
        description = self.session.get_modelmeta().custom_metadata_map.get('mmvmamba')
        if description is None:
            raise ValueError(
                f'{path} does not describe its preprocessing: export it again with this version of export.py'
            )
        self.about: dict[str, Any] = json.loads(description)
        self.task: str = self.about['task']
        if self.task not in TASKS:
            raise ValueError(f'{path} returns {self.task}: only {", ".join(TASKS)} can be served')
        if self.about['steps'] is None:
            raise ValueError(
                f'{path} cannot be served: {self.about["unsupported"]} of its test pipeline is not supported'
            )
        self.max_pixels = max_pixels

    def read(self, data: bytes) -> np.ndarray:
        """Decodes an image file as mmcv does: (height, width, 3), BGR, uint8.

        The header is checked first, so an image with too many pixels is not decoded.

        Raises:
            ImageError: the data are not an image, are damaged, or the image is too large.
        """
        try:
            with Image.open(BytesIO(data), formats=FORMATS) as header:
                width, height = header.size
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageError(415, f'The file is not an image in one of the formats {", ".join(FORMATS)}.') from error
        check_pixels('The image has', width, height, self.max_pixels)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise ImageError(400, 'The image file is damaged.')
        return image

    def predict(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Predicts from an image (height, width, 3), BGR.

        Returns:
            For a classifier, `scores` (classes,). For a segmentor, `classes` (height, width). For a detector, `boxes`
            (N, 4), `scores` (N,) and `labels` (N,), and `masks` (N, height, width) if it has them. Boxes, masks and
            classes refer to the image before preprocessing.

        Raises:
            ImageError: the model does not accept the image.
        """
        resized = resize(image, self.about['steps'], self.max_pixels)
        height, width = image.shape[:2]
        x = pad(resized[..., ::-1].astype(np.float32), self.about['pad'])
        inputs = {
            'images': np.ascontiguousarray(x.transpose(2, 0, 1))[None],
            'size': np.array([height, width], np.int64),  # of detectors
        }
        names = [each.name for each in self.session.get_outputs()]
        try:
            outputs = self.session.run(None, {each.name: inputs[each.name] for each in self.session.get_inputs()})
        except Exception as error:  # onnxruntime has many types of errors
            size = f'{x.shape[1]} x {x.shape[0]} pixels after preprocessing'
            raise ImageError(422, f'The model does not accept this image, which has {size}.') from error
        found = [np.asarray(output) for output in outputs]
        if self.task == 'classification':
            logits = found[0][0]
            scores = 1 / (1 + np.exp(-logits)) if self.about['multi_label'] else np.exp(logits - logits.max())
            return dict(scores=scores if self.about['multi_label'] else scores / scores.sum())
        if self.task == 'segmentation':
            classes = found[0][0, : resized.shape[0], : resized.shape[1]].astype(np.uint16)
            return dict(classes=cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST))
        return dict(zip(names, found))

    def summary(self, found: dict[str, np.ndarray], min_score: float) -> dict[str, Any]:
        """Returns a prediction for JSON. Maps and masks are PNG files in base64."""
        if self.task == 'classification':
            best = np.argsort(-found['scores'], kind='stable')[:TOP].tolist()
            return dict(classes=[self._named(i, score=round(float(found['scores'][i]), 6)) for i in best])
        if self.task == 'segmentation':
            labels, counts = np.unique(found['classes'], return_counts=True)
            shares = (counts / found['classes'].size).round(6).tolist()
            return dict(
                classes=[self._named(label, share=share) for label, share in zip(labels.tolist(), shares)],
                label_map=_png(found['classes']),
            )
        objects = []
        for i in np.flatnonzero(found['scores'] >= min_score):
            score, box = round(float(found['scores'][i]), 6), found['boxes'][i].round(2).tolist()
            mask = dict(mask=_png(found['masks'][i] * np.uint8(255))) if 'masks' in found else {}
            objects.append(self._named(int(found['labels'][i]), score=score, box=box, **mask))
        return dict(objects=objects)

    def draw(self, image: np.ndarray, found: dict[str, np.ndarray], min_score: float) -> np.ndarray:
        """Draws a prediction into a copy of the image."""
        image = image.copy()
        if self.task == 'segmentation':
            labels = found['classes']
            colours = np.array([self._colour(label) for label in range(int(labels.max()) + 1)], np.uint8)
            return cv2.addWeighted(image, 1 - OPACITY, colours[labels], OPACITY, 0)
        size = max(0.45, max(image.shape[:2]) / 1600)  # of the text; 1 is a height of about 25 pixels
        if self.task == 'classification':
            for row, each in enumerate(self.summary(found, min_score)['classes'], 1):
                place = (5, int(row * 35 * size))
                _write(image, f'{each["class"] or each["label"]} {each["score"]:.2f}', place, size)
            return image
        for i in np.flatnonzero(found['scores'] >= min_score)[::-1]:
            colour, (x0, y0, x1, y1) = (
                self._colour(int(found['labels'][i])),
                found['boxes'][i].round().astype(int).tolist(),
            )
            if 'masks' in found:
                mask = found['masks'][i].astype(bool)
                image[mask] = ((1 - OPACITY) * image[mask] + OPACITY * np.array(colour)).astype(np.uint8)
            cv2.rectangle(image, (x0, y0), (x1, y1), colour, max(2, round(3 * size)))
            each = self._named(int(found['labels'][i]))
            label = f'{each["class"] or each["label"]} {found["scores"][i]:.2f}'
            _write(image, label, (x0 + int(8 * size), max(y0, 0) + int(35 * size)), size)  # inside of the box
        return image

    def _named(self, label: int, **values: Any) -> dict[str, Any]:
        classes = self.about['classes'] or []
        return dict(label=label, **{'class': classes[label] if label < len(classes) else None}, **values)

    def _colour(self, label: int) -> tuple[int, ...]:
        """BGR."""
        palette = self.about['palette']
        if isinstance(palette, list) and label < len(palette) and isinstance(palette[label], list):
            return tuple(palette[label][::-1])
        return tuple(np.random.default_rng(label).integers(60, 256, 3).tolist())


def _write(image: np.ndarray, text: str, place: tuple[int, int], size: float) -> None:
    """Writes white text with a black border."""
    for width, colour in ((6, (0, 0, 0)), (2, (255, 255, 255))):
        width = max(1, round(width * size))
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, colour, width, cv2.LINE_AA)


def _png(image: np.ndarray) -> str:
    image = image.astype(np.uint8) if image.max(initial=0) < 256 else image
    return base64.b64encode(cv2.imencode('.png', image)[1].tobytes()).decode()
