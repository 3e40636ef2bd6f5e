"""An S3 server on this machine, for the tests of bundles."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from moto.server import ThreadedMotoServer

BUCKET = "results"


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """A server with one bucket; the environment by which it is reached.

    Servers of one process share what they hold: each user takes a prefix of its own.
    """
    import s3fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test-access-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret-access-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            for name in [name for name in os.environ if name.startswith("AWS_") and name not in environment]:
                patch.delenv(name)
            filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
            if not filesystem.exists(BUCKET):
                filesystem.mkdir(BUCKET)
            yield environment
    finally:
        server.stop()
