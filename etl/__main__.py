"""One sample at the command line, as an ETL makes it: ``python -m etl --recipe train < in.jpg > out.jpg``."""

import argparse
import sys

from etl.request import BadRequest, answer, parse
from etl.sample import CorruptSample


def main() -> int:
    """Standard input to standard output; 1 for bytes that are no image, 2 for arguments that make no sense."""
    parser = argparse.ArgumentParser(prog="python -m etl", description=__doc__)
    parser.add_argument("--recipe", choices=("train", "val"), default="train")
    parser.add_argument("--args", default="", metavar="JSON", help='as etl_args: \'{"seed":0,"epoch":3,"index":17}\'')
    options = parser.parse_args()
    try:
        sys.stdout.buffer.write(answer(sys.stdin.buffer.read(), parse(options.args, options.recipe)))
    except CorruptSample as error:
        print(f"error: standard input is {error}.", file=sys.stderr)
        return 1
    except BadRequest as error:
        print(f"error: --args: {error}.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
