# Production pins the base by digest: --build-arg BASE=python:3.13-slim-bookworm@sha256:...
ARG BASE=python:3.13-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# /opt/keyvault is what ships, and has no pip; /opt/build has pip and the build backend, and stays behind.
RUN python3 -m venv --without-pip /opt/keyvault && python3 -m venv /opt/build
WORKDIR /src
# Wheels only: no package's own code runs while it is installed, and no compiler is needed.
COPY requirements/build.txt requirements/server.txt requirements/
RUN /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt \
    && /opt/build/bin/pip --python /opt/keyvault/bin/python3 \
        install --require-hashes --only-binary :all: -r requirements/server.txt
COPY . .
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/keyvault/bin/python3 install --no-deps --no-index /wheels/*.whl \
    && /opt/build/bin/pip --python /opt/keyvault/bin/python3 check

FROM ${BASE}
LABEL org.opencontainers.image.title="keyvault-server" \
      org.opencontainers.image.description="A vault that stores only what it cannot read" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/keyvault /opt/keyvault
RUN install -d -o 10001 -g 10001 -m 0700 /data
# malloc: glibc overwrites freed memory (MALLOC_PERTURB_), which Python's own allocator would keep, data keys and all.
# The server turns core files off by itself; see to it that the host does not swap.
#
# By itself the server listens on loopback only. To serve others set KEYVAULT_LISTEN=0.0.0.0:50051 and what it then wants:
# KEYVAULT_TLS_CERTIFICATE, KEYVAULT_TLS_PRIVATE_KEY, KEYVAULT_TLS_CLIENT_CA, KEYVAULT_POLICY, KEYVAULT_AUDIT_FILE and
# KEYVAULT_BACKEND=aws; its one line of refusal names what is missing. KEYVAULT_ADMIN_LISTEN answers
# health alone, in plaintext, with or without TLS: the HEALTHCHECK below asks it. For probes from outside the container
# set 0.0.0.0:50052.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONMALLOC=malloc \
    MALLOC_PERTURB_=165 \
    KEYVAULT_DATA=/data \
    KEYVAULT_ADMIN_LISTEN=127.0.0.1:50052
# Nothing but /data is written: run it with --read-only --cap-drop=ALL --security-opt=no-new-privileges.
VOLUME ["/data"]
WORKDIR /data
USER 10001:10001
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/opt/keyvault/bin/keyvault-server", "healthcheck", "--liveness"]
ENTRYPOINT ["/opt/keyvault/bin/keyvault-server"]
CMD ["serve"]
