"""Serves a model that export.py has exported to ONNX: an image in, JSON or a picture out.

    pip install 'mmvmamba[serve]'
    python tools/deployment/serving/serve.py model.onnx --port 8000
    curl -F image=@photo.jpg localhost:8000/predict
    curl -F image=@photo.jpg localhost:8000/picture -o picture.jpg

It needs neither PyTorch nor mmvmamba, only this folder, and the packages of docker/requirements.txt.
"""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Awaitable, Callable
from threading import Semaphore
from typing import Annotated, Any

try:
    import cv2
    import uvicorn
    from fastapi import FastAPI, Query, Request, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from predictor import ImageError, Predictor
except ModuleNotFoundError as error:
    hint = 'opencv-python-headless' if error.name == 'cv2' else "'mmvmamba[serve]'"
    raise SystemExit(f'{error.name} is missing: pip install {hint}') from error

MinScore = Annotated[float, Query(ge=0, le=1, description='Objects with a lower score are left out.')]


def create_app(predictor: Predictor, max_bytes: int = 20_000_000, parallel: int = 1) -> FastAPI:
    """Returns the service.

    Args:
        predictor: the model.
        max_bytes: limit of the body of a request.
        parallel: number of images that are decoded and predicted at once; the others wait. It limits the memory.
    """
    app = FastAPI(title='mmvmamba')
    turns = Semaphore(parallel)

    # FastAPI runs functions without `async` in threads, so the event loop is free during a prediction.
    @app.post('/predict')
    def predict(image: UploadFile, min_score: MinScore = 0.3) -> dict[str, Any]:
        """Returns the prediction in JSON."""
        data = image.file.read()
        with turns:
            pixels = predictor.read(data)
            size = dict(width=pixels.shape[1], height=pixels.shape[0])
            return dict(task=predictor.task, **size, **predictor.summary(predictor.predict(pixels), min_score))

    @app.post('/picture', response_class=Response, responses={200: {'content': {'image/jpeg': {}}}})
    def picture(image: UploadFile, min_score: MinScore = 0.3) -> Response:
        """Returns the image with the prediction, as JPEG."""
        data = image.file.read()
        with turns:
            pixels = predictor.read(data)
            drawn = predictor.draw(pixels, predictor.predict(pixels), min_score)
            return Response(cv2.imencode('.jpg', drawn)[1].tobytes(), media_type='image/jpeg')

    @app.get('/health')
    def health() -> dict[str, str]:
        """Returns the task of the model; for health checks."""
        return dict(status='ok', task=predictor.task)

    @app.middleware('http')
    async def limit_size(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get('content-length', '')
        if request.method == 'POST' and not length.isdigit():  # its body could have any size
            return JSONResponse(dict(detail='The request needs the header Content-Length.'), 411)
        if length and int(length) > max_bytes:
            return JSONResponse(dict(detail=f'The request has more than {max_bytes} bytes.'), 413)
        return await call_next(request)

    @app.exception_handler(ImageError)
    def reject_image(request: Request, error: ImageError) -> JSONResponse:
        return JSONResponse(dict(detail=str(error)), error.status)

    @app.exception_handler(RequestValidationError)
    def reject_arguments(request: Request, error: RequestValidationError) -> JSONResponse:
        if any('image' in each['loc'] for each in error.errors()):
            return JSONResponse(dict(detail="Send an image file as the form field 'image' (multipart/form-data)."), 422)
        return JSONResponse(dict(detail='min_score must be a number from 0 to 1.'), 422)

    return app


def count(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise ArgumentTypeError(f'{text} is not a positive integer')
    return int(text)


def parse_args() -> Any:
    parser = ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('model', help='file of export.py, .onnx')
    parser.add_argument('--operators', help='onnxruntime_ops.so, for a file that was exported with --custom-op')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (default: %(default)s)')
    parser.add_argument('--port', type=count, default=8000, help='(default: %(default)s)')
    parser.add_argument('--threads', type=count, help='threads of a prediction (default: all processors)')
    parser.add_argument('--parallel', type=count, default=1, help='predictions at once (default: %(default)s)')
    parser.add_argument('--max-bytes', type=count, default=20_000_000, help='of a request (default: %(default)s)')
    parser.add_argument('--max-pixels', type=count, default=25_000_000, help='of an image (default: %(default)s)')
    parser.add_argument('--max-clients', type=count, default=64, help='more get status 503 (default: %(default)s)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cv2.setNumThreads(1)
    try:
        predictor = Predictor(args.model, args.operators, args.threads or 0, args.max_pixels)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    app = create_app(predictor, args.max_bytes, args.parallel)
    uvicorn.run(app, host=args.host, port=args.port, limit_concurrency=args.max_clients)


if __name__ == '__main__':
    main()
