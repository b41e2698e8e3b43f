"""Creates a small, real dataset for classification: handwritten digits.

The digits are scikit-learn's `load_digits`: 1,797 images of 8 x 8 pixels, written by 13 people, from the UCI repository
(https://doi.org/10.24432/C50P49). They are part of the installed package, so nothing is downloaded. Each image is
enlarged by a factor of four, so the first map of a backbone with stride 4 has one position per original pixel.

The first two thirds are used for training, the last third is held out. The digits are not shuffled: consecutive digits
are by the same writer, and a random split would put every writer into both parts.

Output, one folder per class as in ImageNet::

    data/digits/{training,validation}/{0,...,9}/*.png
"""

import argparse
import signal
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NUM_DIGITS = 1797
NUM_TRAINING = 1198
BRIGHTEST = 16  # maximum pixel value in the source
SIDE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out-dir', type=Path, default=Path('data/digits'))
    args = parser.parse_args()

    scans, labels = load_digits(return_X_y=True)
    if len(scans) != NUM_DIGITS:
        raise RuntimeError(f'Found {len(scans)} digits instead of {NUM_DIGITS}: this is not the data set of 1998.')
    pixels = np.round(scans.reshape(-1, 8, 8) * (255 / BRIGHTEST)).astype(np.uint8)
    for number, (digit, label) in enumerate(zip(pixels, labels)):
        part = 'training' if number < NUM_TRAINING else 'validation'
        path = args.out_dir / part / str(label) / f'{number:04d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digit).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    print(f'{NUM_TRAINING} training digits and {NUM_DIGITS - NUM_TRAINING} held-out digits written to {args.out_dir}')


if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends without a traceback
    main()
