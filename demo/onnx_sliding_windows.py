"""Writes the class of every pixel of a large image as a PNG file, with numpy, OpenCV and onnxruntime only.

python demo/onnx_sliding_windows.py segmentor.onnx image.jpg classes.png --crop 512 512 --stride 341 341

The file is one of `tools/deployment/export.py --logits`. As in mmseg's mode `slide`, the logits of overlapping windows
are averaged. The crop and the stride are those of the `test_cfg`, as height and width.
"""

import argparse

import cv2
import numpy as np
import onnxruntime


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """The first pixels of the windows. The last window ends at the last pixel."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - crop), 0) for i in range(count)]


def slide(session: onnxruntime.InferenceSession, images: np.ndarray, crop, stride) -> np.ndarray:
    """Returns the mean logits (1, classes, H, W) of the windows of an RGB image (1, 3, H, W), float32, 0 to 255."""
    height, width = images.shape[2:]
    total, count = np.zeros(1, np.float32), np.zeros((height, width), np.float32)
    for y in window_starts(height, crop[0], stride[0]):
        for x in window_starts(width, crop[1], stride[1]):
            window = np.s_[..., y : y + crop[0], x : x + crop[1]]
            logits = np.asarray(session.run(None, {'images': images[window]})[0])
            if total.ndim == 1:
                total = np.zeros((*logits.shape[:2], height, width), np.float32)
            total[window] += logits
            count[window] += 1
    return total / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='.onnx file of a segmentor, exported with --logits')
    parser.add_argument('image', help='image file')
    parser.add_argument('out', help='PNG file to write')
    parser.add_argument('--crop', type=int, nargs=2, required=True, metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--stride', type=int, nargs=2, required=True, metavar=('HEIGHT', 'WIDTH'))
    args = parser.parse_args()
    image = cv2.imread(args.image)
    if image is None:
        parser.error(f'{args.image} cannot be read as an image')
    images = image[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)  # RGB, (1, 3, H, W)
    session = onnxruntime.InferenceSession(args.model, providers=['CPUExecutionProvider'])
    if len(session.get_outputs()[0].shape) != 4:
        parser.error(f'{args.model} returns classes: export it with --logits')
    cv2.imwrite(args.out, slide(session, images, args.crop, args.stride)[0].argmax(0).astype(np.uint8))


if __name__ == '__main__':
    main()
