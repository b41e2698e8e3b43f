"""Measures the service tools/deployment/serving with parallel clients: latency, memory growth, and wrong results.

    python benchmarks/serving.py model.onnx [--operators onnxruntime_ops.so] [--requests 1000] [--clients 1 4]

Starts the service and sends images of 12 sizes. Every answer is compared with the first answer for the same image.
Prints quantiles of the latency for each number of clients. Fails if an answer differs, or if the memory of the service
(RssAnon) grows by more than 2 % from the second to the last third of the requests (Linux only).
"""

import argparse
import json
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import measure
import numpy as np
from steady_memory import ALLOWED, growth

SERVICE = Path(__file__).parents[1] / 'tools/deployment/serving/serve.py'
SIZES = [(480, 640), (640, 480), (375, 500), (427, 640), (300, 400), (512, 512)]
SIZES += [(240, 320), (600, 450), (333, 500), (500, 281), (200, 600), (450, 450)]


def requests(port: int) -> list[urllib.request.Request]:
    """One request for each size: noise with large structures, as JPEG."""
    random = np.random.default_rng(0)
    found = []
    for height, width in SIZES:
        image = cv2.resize(random.integers(0, 256, (6, 6, 3), np.uint8), (width, height))
        file = cv2.imencode('.jpg', image)[1].tobytes()
        head = b'--part\r\nContent-Disposition: form-data; name="image"; filename="image.jpg"\r\n\r\n'
        kind = {'Content-Type': 'multipart/form-data; boundary=part'}
        body = head + file + b'\r\n--part--\r\n'
        found.append(urllib.request.Request(f'http://127.0.0.1:{port}/predict', body, kind))
    return found


def send(request: urllib.request.Request) -> tuple[bytes, float]:
    """Returns the answer and the seconds that it took."""
    begin = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        return answer.read(), time.perf_counter() - begin


def start(arguments: list[str]) -> tuple[subprocess.Popen, int, float]:
    """Returns the process, the port, and the seconds until the service answers."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    begin = time.perf_counter()
    command = [sys.executable, str(SERVICE), *arguments, '--port', str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            send(urllib.request.Request(f'http://127.0.0.1:{port}/health'))
            return process, port, time.perf_counter() - begin
        except OSError:
            time.sleep(0.02)
    sys.exit(f'The service ended with status {process.returncode}: run {SERVICE} to see the error.')


def resident(process: subprocess.Popen) -> int:
    status = Path(f'/proc/{process.pid}/status').read_text()
    return int(re.findall(r'RssAnon:\s+(\d+)', status)[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').partition('\n')[0])
    parser.add_argument('model', help='file of export.py, .onnx')
    parser.add_argument('--operators', help='onnxruntime_ops.so, for files that were exported with --custom-op')
    parser.add_argument('--requests', type=int, default=1000)
    parser.add_argument('--clients', type=int, nargs='+', default=[1, 4])
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the results to this file')
    options = parser.parse_args()
    machine = measure.machine('cpu')
    process, port, ready = start([options.model, *(['--operators', options.operators] if options.operators else [])])
    print(f'answers after {ready:.1f} s', flush=True)
    results, wrong, memory = [], 0, []
    try:
        images = requests(port)
        expected = [send(image)[0] for image in images]
        if len(set(expected)) < len(images):
            sys.exit('Different images have the same result: use a trained model.')

        def run(i: int) -> tuple[bool, float]:
            answer, seconds = send(images[i % len(images)])
            memory.append(resident(process))
            return answer == expected[i % len(images)], seconds

        for clients in options.clients:
            memory.clear()
            begin = time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                right, times = zip(*pool.map(run, range(options.requests)))
            rate = options.requests / (time.perf_counter() - begin)
            cuts = statistics.quantiles(times, n=100, method='inclusive')
            p50, p90, p99 = (round(cuts[percent - 1] * 1e3, 1) for percent in (50, 90, 99))
            wrong += len(right) - sum(right)
            grown = growth(memory)
            print(
                f'{clients} clients: {p50} ms (median), {p90} ms (90 %), {p99} ms (99 %), {rate:.1f} images/s; '
                f'memory {statistics.median(memory) / 2**20:.0f} MiB (median), {grown:+.2%}',
                flush=True,
            )
            results.append(dict(clients=clients, p50=p50, p90=p90, p99=p99, rate=round(rate, 2), memory_growth=grown))
        loaded = 'libtorch' in Path(f'/proc/{process.pid}/maps').read_text()
        print(f'wrong results: {wrong}; PyTorch loaded: {"yes" if loaded else "no"}')
    finally:
        process.terminate()
        process.wait()
    if options.json:
        stored = dict(machine=machine, requests=options.requests, seconds_until_ready=round(ready, 2), results=results)
        options.json.write_text(json.dumps(stored, indent=1) + '\n')
    if wrong or loaded or any(each['memory_growth'] > ALLOWED for each in results):
        sys.exit('A result is wrong, PyTorch is loaded, or the memory grows.')


if __name__ == '__main__':
    main()
