"""Web page that shows the predictions of a model for an image, and what a position of the image attends to.

The configs of this repository and those on the command line are available; a config is a program, so it cannot be
uploaded. Checkpoints are read as data. The page can only be opened on this machine.
"""

import html
import os
import traceback
from argparse import ArgumentParser, Namespace
from functools import lru_cache
from glob import glob
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np
from mmengine.logging import MMLogger

from mmvmamba.engine.libraries import missing_package

try:
    import cv2
    import gradio as gr
except ImportError as error:
    raise missing_package(error) from error

from mmvmamba.analysis.attention_map import attention_map
from mmvmamba.checkpoint import CheckpointError
from mmvmamba.engine.arguments import add_arguments, load_config
from mmvmamba.engine.errors import DataError, LaunchError
from mmvmamba.engine.inference import displayable, draw, image_loader, load_inferencer, predict, summary
from mmvmamba.engine.interruptible import interruptible
from mmvmamba.engine.matching_configs import matching_configs
from mmvmamba.engine.newest_checkpoint import path_in_last_checkpoint_file
from mmvmamba.engine.tool_session import tool_session

ROOT = Path(__file__).parents[1]
DEMO = 'mask-rcnn_vmamba-demo_fpn_coins'  # its checkpoint is selected at the start
MAX_SIDE = 1024  # pixels; larger images are reduced to it, because drawing takes longer than the model
OPACITY = 0.5
EXAMPLES = 'data/coins/images/{}/*.png'
PICTURE: dict[str, Any] = dict(show_label=False, height=320, format='png', image_mode=None, buttons=[])
STYLE = """
.gradio-container {max-width: 1280px !important; margin: auto; width: 100%; padding: 0 !important}
.title h2 {font-size: 1rem; margin: 0}
.title p {margin: 0}
#status {min-height: 4.2rem; padding: 0 !important}
#status .prose {padding: 0 !important}
#status p {margin: 0; overflow-wrap: anywhere}
#status .error {color: #b91c1c; font-weight: 600}
.dark #status .error {color: #fca5a5}
input[role=combobox] {text-overflow: ellipsis; padding-right: 1.25rem !important}
@media (max-width: 500px) {
    .gradio-container > .main {padding: 1rem !important}
    #status {min-height: 6rem}
    input[role=combobox] {font-size: 0.7rem !important}
}
"""


def parse_args(argv=None):
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='*', help='further configs; they are listed before those of the repository')
    parser.add_argument('--checkpoint', default='', help='checkpoint file or URL to select at the start')
    add_arguments(parser, 'device')
    parser.add_argument('--port', type=int, default=7860, help='default: %(default)s')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    MMLogger.get_instance('mmengine', log_level='ERROR')
    with tool_session(args):
        launch(build_page(args), args.port)


def launch(page: gr.Blocks, port: int, **settings):
    system_fonts = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['monospace'])  # others are downloaded
    try:
        page.launch(
            server_name='127.0.0.1', server_port=port, theme=system_fonts, css=STYLE, footer_links=[], **settings
        )
    except OSError as error:
        raise LaunchError(
            f'port {port} cannot be opened, because another program uses it: choose another --port'
        ) from error


def build_page(args: Namespace) -> gr.Blocks:
    shipped = [str(path) for path in sorted(ROOT.glob('configs/*/*.py')) if path.parent.name != '_base_']
    own = [str(Path(config).resolve()) for config in args.configs]
    checkpoints = saved_checkpoints()
    if args.checkpoint:
        checkpoints = [(args.checkpoint, args.checkpoint), *checkpoints]
    load = lru_cache(maxsize=1)(lambda config, checkpoint, changed: load_model(config, checkpoint, args.device))
    running: dict[str, Event] = {}
    bar = gr.Progress()

    def list_configs(checkpoint, progress=bar):
        if not checkpoint:
            return gr.update(choices=[], value=None), status('Run make demo, or enter a checkpoint file or URL.')
        listed, problem = attempt(
            lambda: matching_configs(checkpoint, shipped, own, lambda share: progress(share, desc='Comparing configs'))
        )
        found, reasons = listed or ([], [])
        if not (found or problem):
            reasons = [f'No config matches {checkpoint}: name its config on the command line of app.py.', *reasons]
        choices = [(name(config), config) for config in found]
        return gr.update(choices=choices, value=next(iter(found), None)), status(error=problem or ' '.join(reasons))

    def find(checkpoint, config, file, threshold, request: gr.Request, progress=bar):
        cancelled = running[request.session_hash] = Event()

        def run():
            if not (checkpoint and config and file):
                raise LaunchError('Select a checkpoint, a config that matches it, and an image.')
            progress(0, desc='Loading the model')
            changed = os.path.getmtime(checkpoint) if os.path.isfile(checkpoint) else 0
            read, inferencer = load(config, checkpoint, changed)
            image, note = reduce(read(file))
            with interruptible(inferencer.model, cancelled, lambda share: progress(share, desc='Running the model')):
                [sample] = predict(inferencer, [image])
            progress(1, desc='Drawing')
            found = Prediction(inferencer, image, sample, note)
            return found, *found.show(threshold)

        result, problem = attempt(run)
        found, picture, text = result or (None, None, '')
        return found, picture, None, status(text, problem.replace(str(file), Path(str(file)).name))

    def redraw(found, threshold):
        if found is None:
            return gr.skip(), gr.skip()
        shown, problem = attempt(lambda: found.show(threshold))
        picture, text = shown or (None, '')
        return picture, status(text, problem)

    def look(found, event: gr.SelectData):
        if found is None:  # the picture is about to be removed
            return gr.skip(), gr.skip()
        image = np.ascontiguousarray(displayable(found.image)[..., ::-1])
        picture, problem = attempt(lambda: draw_attention(found.inferencer.model.backbone, image, *event.index))
        return picture, status(error=problem) if problem else gr.skip()

    def cancel(request: gr.Request):
        if request.session_hash in running:
            running[request.session_hash].set()

    with gr.Blocks(title='mmvmamba', analytics_enabled=False, fill_width=True) as page:
        prediction = gr.State()
        gr.Markdown('# mmvmamba\nPredictions of a model, and what a position of the image attends to.')
        with gr.Row():
            with gr.Column(min_width=320):
                title('Image')
                examples = [file for part in ('validation', 'training') for file in sorted(glob(EXAMPLES.format(part)))]
                image = gr.Image(
                    next(iter(examples), None), **PICTURE, elem_id='image', sources=['upload'], type='filepath'
                )
                # The file as it was uploaded: gr.Image reads it with Pillow, and hides the errors.
                image.preprocess = lambda file: file and file.path
                if examples:
                    gr.Examples(examples[:4], image, label='Examples')
                checkpoint = gr.Dropdown(checkpoints, label='Checkpoint (file or URL)', allow_custom_value=True)
                config = gr.Dropdown([], label='Config that matches the checkpoint')
            with gr.Column(min_width=320):
                with gr.Row():
                    find_button = gr.Button('Find', variant='primary', min_width=100)
                    cancel_button = gr.Button('Cancel', interactive=False, min_width=100)
                text = gr.HTML(status(), elem_id='status', padding=False)
                title('Predictions')
                picture = gr.Image(**PICTURE, elem_id='predictions', interactive=False)
                threshold = gr.Slider(0, 1, 0.3, step=0.01, label='Confidence threshold')
                title('What this position attends to', 'Click a position in the predictions.')
                attention = gr.Image(**PICTURE, elem_id='attention', interactive=False)
        gr.on([page.load, checkpoint.change], list_configs, checkpoint, [config, text], show_progress_on=config)
        result = [prediction, picture, attention, text]
        gr.on([image.change, config.input], lambda: (None, None, None, status()), None, result, queue=False)
        checkpoint.change(lambda: (None, None, None), None, result[:3], queue=False)
        buttons = [find_button, cancel_button]
        find_button.click(lambda: enable(False, True), None, buttons, queue=False).then(
            find, [checkpoint, config, image, threshold], result, show_progress_on=picture
        ).then(lambda: enable(True, False), None, buttons, queue=False)
        cancel_button.click(cancel, queue=False)
        threshold.release(redraw, [prediction, threshold], [picture, text], show_progress_on=picture)
        picture.select(look, prediction, [attention, text], show_progress_on=attention)
    return page


class Prediction(NamedTuple):
    inferencer: Any
    image: np.ndarray  # as the config loads it, but at most MAX_SIDE pixels
    sample: Any
    note: str  # a sentence on the image

    def show(self, threshold):
        """Returns the image with the predictions, RGB (height, width, 3), and a line that describes them."""
        picture = draw(self.inferencer, self.image, self.sample, threshold, OPACITY)[..., ::-1]
        found = summary(self.inferencer, self.sample, threshold)
        return picture, f'{found}. {self.note}' if self.note else found


def attempt(function):
    """Returns the result of a function and an empty text, or None and the text of its error."""
    try:
        return function(), ''
    except (LaunchError, CheckpointError, DataError) as error:
        return None, str(error)
    except Exception as error:
        traceback.print_exc()
        return None, f'Unexpected error, {type(error).__name__}: {error}. Details are in the terminal.'


def status(text='', error=''):
    """Returns HTML for the line below the buttons."""
    return f'<p class="error" role="alert">{html.escape(error)}</p>' if error else f'<p>{html.escape(text)}</p>'


def enable(*switches):
    return [gr.update(interactive=on) for on in switches]


def title(text, hint=''):
    gr.Markdown(f'## {text}\n{hint}', elem_classes='title')


def name(config):
    """Returns the label of a config: short, so that it fits a phone."""
    return Path(config).stem if Path(config).is_relative_to(ROOT) else config


def saved_checkpoints():
    """Returns (label, path) of the last checkpoint of each training in work_dirs: DEMO first, then the newest."""
    folders = [Path(file).parent for file in glob('work_dirs/**/last_checkpoint', recursive=True)]
    saved = [(folder, file) for folder in folders if (file := path_in_last_checkpoint_file(folder))]
    saved.sort(key=lambda each: (each[0].name != DEMO, -each[1].stat().st_mtime))
    return [(str(folder.relative_to('work_dirs')), str(file)) for folder, file in saved]


def load_model(config, checkpoint, device):
    """Returns a function that reads an image as the config does, and the inferencer."""
    cfg = load_config(config)
    return image_loader(cfg), load_inferencer(cfg, checkpoint, device)


def reduce(image):
    """Returns an image of at most MAX_SIDE x MAX_SIDE pixels, and a sentence if it was larger."""
    height, width = image.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale >= 1:
        return image, ''
    size = max(1, round(width * scale)), max(1, round(height * scale))
    note = f'Reduced from {width} x {height} to {size[0]} x {size[1]} pixels; image_demo.py uses the full size.'
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), note


def draw_attention(backbone, image, x, y):
    """Returns the image with a heat map of what pixel (x, y) attends to, and a cross on that pixel; all RGB."""
    colours = cv2.applyColorMap(attention_map(backbone, image, x, y), cv2.COLORMAP_INFERNO)[..., ::-1]
    blended = cv2.addWeighted(image, 0.4, np.ascontiguousarray(colours), 0.6, 0)
    return cv2.drawMarker(blended, (x, y), (255, 255, 255), cv2.MARKER_CROSS, 20, 2)


if __name__ == '__main__':
    main()
