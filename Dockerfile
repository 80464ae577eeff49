# The server with a Chromium; web, worker and release are commands of the same image.
FROM python:3.13-slim-bookworm

RUN apt-get update \
 && apt-get install -y --no-install-recommends chromium fonts-dejavu-core fonts-noto-color-emoji tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 10001 cua \
 && install -d -o cua -g cua /data

WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .

USER 10001
ENV DATA_DIR=/data HOST=0.0.0.0 PORT=8000 PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/api/health', timeout=2)"]

# Chromium and PostgreSQL leave orphans, which somebody has to reap.
ENTRYPOINT ["tini", "--"]
CMD ["sh", "-c", "exec uvicorn backend_websocket_server:app --host \"$HOST\" --port \"$PORT\" --http infra.server:BoundedHttp --ws-per-message-deflate false --ws-max-size 65536 --no-access-log --no-server-header --timeout-keep-alive 75 --timeout-graceful-shutdown 20"]
