# unialign with its two stages, for one machine with or without an NVIDIA GPU (torch brings its own CUDA libraries; the
# host needs the driver and the container toolkit).
#
#   docker build -t unialign .
#   docker run --rm --gpus all -v "$PWD:/work" unialign doctor
#   docker build -t unialign --build-arg EXTRAS=all,ultralytics .     # with the pose networks, which are AGPL-3.0
FROM python:3.13-slim

ARG EXTRAS=all
# The versions that are tested; pip alone would take the newest.
COPY .uv-version requirements.txt pyproject.toml README.md LICENSE /opt/unialign/
COPY unialign /opt/unialign/unialign
WORKDIR /opt/unialign
RUN pip install --no-cache-dir "uv==$(cat .uv-version)" \
    && uv pip install --system --no-cache --compile-bytecode --constraints requirements.txt ".[${EXTRAS}]"

# OpenCV, which Ultralytics loads, links these two.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# Files that a container writes into /work belong to this user, not to root; `--user "$(id -u)"` makes them yours.
RUN useradd --create-home --uid 1000 unialign
USER 1000
WORKDIR /work
ENTRYPOINT ["unialign"]
CMD ["--help"]
