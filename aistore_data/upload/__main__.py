"""``python -m aistore_data.upload``."""

import sys

from aistore_data.upload.command import main

if __name__ == "__main__":
    sys.exit(main())
