"""The ETL as a web application, for the container image: ``uvicorn etl.app:app``.

The environment has IMAGENET_AIS_RECIPE=train|val.
"""

import os

from etl.code import code_sha256
from etl.request import CODE_VARIABLE
from etl.server import TrainETL, ValETL

os.environ[CODE_VARIABLE] = code_sha256()  # what the image holds, whatever its starter believes
app = {"train": TrainETL, "val": ValETL}[os.environ["IMAGENET_AIS_RECIPE"]]().app
