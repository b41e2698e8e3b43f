# A service for an exported model, on CPUs, without PyTorch; docs/serving.md describes how to build and run it.
# The folder docker/model must contain model.onnx, and onnxruntime_ops.so for a model that was exported with --custom-op.
FROM python:3.12-slim-bookworm

WORKDIR /service
COPY docker/requirements.lock .
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock && \
    useradd --system --no-create-home --uid 10001 service
COPY tools/deployment/serving docker/model ./

USER 10001
ENV MALLOC_ARENA_MAX=2 PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["python", "serve.py", "--host", "0.0.0.0"]
CMD ["model.onnx"]
