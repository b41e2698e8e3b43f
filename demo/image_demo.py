"""Predicts with a detector, segmentor or classifier for images or videos: a file, a folder or a glob pattern.

Writes the images or videos with the predictions drawn into them, and the predictions: `predictions.json` in COCO format
for a detector, PNG files with class indices for a segmentor, and `predictions.json` with the labels for a classifier.
"""

import json
import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from glob import glob
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmvmamba.engine.libraries import missing_package

try:
    import cv2
    import mmcv
    from rich.progress import Progress
except ImportError as error:
    raise missing_package(error) from error

from mmvmamba.engine.arguments import add_arguments, load_config
from mmvmamba.engine.checks.images import check_regular_file
from mmvmamba.engine.coco_result import CocoResult
from mmvmamba.engine.errors import LaunchError
from mmvmamba.engine.inference import class_map, classification, draw, image_loader, load_inferencer, predict
from mmvmamba.engine.tool_session import tool_session

IMAGES = {'.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp'}
VIDEOS = {'.avi', '.mkv', '.mov', '.mp4', '.webm'}


class Frame(NamedTuple):
    name: Path  # relative to the common folder of all inputs; clip/000012.png for a frame of clip.mp4
    image: np.ndarray  # (height, width, 3), BGR, or as the test pipeline of the config loads it
    video: Path | None = None
    fps: float = 0


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('input', help='image, video, folder, or quoted glob pattern such as "data/**/*.jpg"')
    add_arguments(parser, 'config')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--out-dir', type=Path, default='outputs', help='default: %(default)s')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images of the same size per batch (default: %(default)s)'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='lowest score of an object, or of a label of a multi-label classifier (default: %(default)s)',
    )
    parser.add_argument(
        '--opacity', type=float, default=0.5, help='opacity of the class colours of a segmentor (default: %(default)s)'
    )
    add_arguments(parser, 'device', 'cfg_options', 'trust_checkpoint')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with tool_session(args):
        if args.batch_size < 1:
            raise LaunchError(f'--batch-size {args.batch_size} must be 1 or more')
        files = find_files(args.input)
        cfg = load_config(args.config, args.cfg_options)
        read = image_loader(cfg)
        inferencer = load_inferencer(cfg, args.checkpoint, args.device)
        frames = chain.from_iterable(read_frames(file, name, read) for file, name in files.items())
        with Progress() as bar, Output(args.out_dir, inferencer, args.score_thr, args.opacity) as output:
            task = bar.add_task('Inference', total=sum(map(count_frames, files)))
            for batch in batches(frames, args.batch_size):
                for frame, sample in zip(batch, predict(inferencer, [frame.image for frame in batch])):
                    output.write(frame, sample)
                bar.advance(task, len(batch))
        print(f'Written to {args.out_dir}{output.summary()}')


def find_files(source: str) -> dict[Path, Path]:
    """Returns images and videos with their names in the output: the paths relative to their common folder."""
    path = Path(source)
    found = path.iterdir() if path.is_dir() else [path] if path.is_file() else map(Path, glob(source, recursive=True))
    files = sorted(file for file in found if file.suffix.lower() in IMAGES | VIDEOS)
    if not files:
        raise LaunchError(f'{source} is not an image or video, a folder with one, or a pattern that matches one')
    folder = os.path.commonpath([file.parent for file in files])
    names = {file: Path(os.path.relpath(file, folder)) for file in files}
    first = {}
    for file, name in names.items():
        if first.setdefault(name.with_suffix(''), file) != file:
            raise LaunchError(
                f'{file} and {first[name.with_suffix("")]} would have the same name in the output: rename one of them'
            )
    return names


def count_frames(file: Path) -> int:
    return len(open_video(file)) if file.suffix.lower() in VIDEOS else 1


def read_frames(file: Path, name: Path, read: Callable[[Path], np.ndarray]) -> Iterator[Frame]:
    if file.suffix.lower() in VIDEOS:
        video = open_video(file)
        for number, image in enumerate(video):
            yield Frame(name.with_suffix('') / f'{number:06}.png', image, name.with_suffix('.mp4'), video.fps)
    else:
        yield Frame(name, read(file))


def open_video(file: Path) -> mmcv.VideoReader:
    check_regular_file(file)
    video = mmcv.VideoReader(str(file))
    if not video.opened or len(video) < 1:
        raise LaunchError(f'{file} cannot be read as a video: it is damaged, or OpenCV does not support its format')
    return video


def batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    batch = []
    for frame in frames:
        if batch and (len(batch) == size or frame.image.shape != batch[0].image.shape):
            yield batch
            batch = []
        batch.append(frame)
    if batch:
        yield batch


class Output:
    """Writes each image when it is predicted, and the predictions at the end."""

    def __init__(self, folder, inferencer, score_thr, opacity):
        self.folder, self.inferencer, self.score_thr, self.opacity = folder, inferencer, score_thr, opacity
        self.videos = {}
        self.coco, self.classes = CocoResult(), []

    def write(self, frame: Frame, sample):
        picture = draw(self.inferencer, frame.image, sample, self.score_thr, self.opacity)
        if frame.video:
            self.video(frame, picture.shape).write(picture)
        else:
            mmcv.imwrite(picture, str(self.folder / 'pictures' / frame.name.with_suffix('.png')))
        if 'pred_instances' in sample:
            self.coco.add(str(frame.name), sample, self.score_thr)
        elif 'pred_sem_seg' in sample:
            mmcv.imwrite(class_map(sample), str(self.folder / 'labels' / frame.name.with_suffix('.png')))
        else:
            self.classes.append(
                dict(file_name=str(frame.name), **classification(self.inferencer, sample, self.score_thr))
            )

    def video(self, frame: Frame, shape) -> cv2.VideoWriter:
        if frame.video not in self.videos:
            file = self.folder / 'pictures' / frame.video
            file.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter.fourcc(*'mp4v')
            rate = frame.fps if 0 < frame.fps < float('inf') else 25  # some files contain no frame rate
            self.videos[frame.video] = cv2.VideoWriter(str(file), codec, rate, (shape[1], shape[0]))
            if not self.videos[frame.video].isOpened():
                raise LaunchError(
                    f'{file} cannot be written: the folder is not writable, or OpenCV does not have the codec'
                )
        return self.videos[frame.video]

    def summary(self) -> str:
        """Says how many objects a detector found: with a high threshold, the pictures can be empty."""
        images, objects = len(self.coco.images), len(self.coco.annotations)
        if not images:
            return ''
        empty = images - len({annotation['image_id'] for annotation in self.coco.annotations})
        lower = '. Lower --score-thr to draw more' if empty else ''
        return (
            f': {objects} objects with a score of at least {self.score_thr} in {images} images, '
            f'{empty} of them without an object{lower}'
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for video in self.videos.values():
            video.release()
        coco = self.coco.content(self.inferencer.model.dataset_meta['classes']) if self.coco.images else None
        if coco or self.classes:
            (self.folder / 'predictions.json').write_text(json.dumps(coco or self.classes))


if __name__ == '__main__':
    main()
