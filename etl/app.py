"""The ETL as a web application, for the container image: ``uvicorn etl.app:app --http etl.app:Protocol``.

The environment has IMAGENET_AIS_RECIPE=train|val.
"""

import os

from etl.code import code_sha256
from etl.protocol import ObjectProtocol
from etl.request import CODE_VARIABLE
from etl.server import TrainETL, ValETL

os.environ[CODE_VARIABLE] = code_sha256()  # what the image holds, whatever its starter believes
server = {"train": TrainETL, "val": ValETL}[os.environ["IMAGENET_AIS_RECIPE"]]()
app = server.app


class Protocol(ObjectProtocol):
    """Of this ETL."""

    etl = server
