# The worker, as a user without rights. `docker compose up` builds and runs it beside a Valkey.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY core core
COPY worker worker
COPY supabase/migrations supabase/migrations
COPY examples examples
RUN python -m venv /opt/unstale \
 && /opt/unstale/bin/pip install --no-cache-dir --no-compile --constraint constraints.txt '.[worker,companion]' \
 && /opt/unstale/bin/pip uninstall --yes pip setuptools

FROM python:3.13-slim
LABEL org.opencontainers.image.title="unstale" \
      org.opencontainers.image.description="The worker that keeps Redis and in-process caches true to a Supabase Postgres" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin unstale
COPY --from=build /opt/unstale /opt/unstale
ENV PATH=/opt/unstale/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# unstale.toml is looked for here.
WORKDIR /app
USER 10001
# On loopback inside the container unless UNSTALE_HTTP_HOST says otherwise; then the token is required.
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as web; e = os.environ.get; web.urlopen(web.Request('http://127.0.0.1:' + e('UNSTALE_HTTP_PORT', '8787') + '/healthz', headers={'Authorization': 'Bearer ' + e('UNSTALE_HTTP_TOKEN', '')}), timeout=3)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["unstale"]
CMD ["worker"]
