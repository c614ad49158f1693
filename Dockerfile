# hemoscan as a user without rights. Research use only, not for diagnosis.
# Build: docker build -t hemoscan .     CPU only: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu
FROM python:3.12-slim AS build
ARG TORCH_INDEX=https://pypi.org/simple
WORKDIR /src
COPY . .
RUN python -m venv /opt/hemoscan \
 && /opt/hemoscan/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision \
 && /opt/hemoscan/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /opt/hemoscan /opt/hemoscan
# A number, so that Kubernetes' runAsNonRoot can tell; no shell, no home.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin hemoscan \
 && install -d -o 10001 -g 10001 /state /cache /out
ENV XDG_STATE_HOME=/state XDG_CACHE_HOME=/cache PATH=/opt/hemoscan/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /out
ENTRYPOINT ["hemoscan"]
CMD ["doctor"]
