# The trainer as a container image:
#   docker build -t REGISTRY/imagenet-ais:1 .
#   docker run --rm REGISTRY/imagenet-ais:1 data=synthetic train.epochs=1 run_dir=/tmp/run
#   docker build --build-arg TORCH_INDEX=URL …   # another index for torch, such as PyTorch's of CPU builds
# Pods start python -m training.launch in it: python -m scripts.submit k8s submit.k8s.image=REGISTRY/imagenet-ais:1 …
# Written, and not built by this project's tests: they have no container engine.
FROM python:3.11.14-slim-bookworm
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --uid 1000 --user-group --create-home trainer
WORKDIR /opt/imagenet-ais

# torch alone, then the rest, as make setup does: what changes seldom comes first.
ARG TORCH_INDEX=
COPY requirements-torch.txt .
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements-torch.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements.txt \
    && pip uninstall -qy kubernetes-validate mypy pre-commit pyarrow pytest pytest-xdist ruff

COPY train.py LICENSE ./
COPY conf/ conf/
COPY etl/ etl/
COPY aistore_data/ aistore_data/
COPY training/ training/
COPY scripts/ scripts/
USER 1000:1000
ENTRYPOINT ["python", "train.py"]
