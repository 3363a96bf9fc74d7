"""One sample at the command line, as an ETL makes it: ``python -m etl --recipe train < in.jpg > out.jpg``."""

import argparse
import json
import sys

from etl.request import BadRequest, answer, parse
from etl.sample import CorruptSample
from etl.spec import POLICY_FIELDS, RECIPES


def main() -> int:
    """Standard input to standard output; 1 for bytes that are no image, 2 for arguments that make no sense."""
    parser = argparse.ArgumentParser(prog="python -m etl", description=__doc__)
    parser.add_argument("--recipe", choices=("train", "val"), default="train")
    parser.add_argument("--args", default="", metavar="JSON", help='as etl_args: \'{"seed":0,"epoch":3,"index":17}\'')
    for name in POLICY_FIELDS:
        default = RECIPES["train"][name]
        kind, shown = type(default), "none" if default == "" else default
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"as in --args; default: {shown}")
    options = parser.parse_args()
    policy = {name: getattr(options, name) for name in POLICY_FIELDS if getattr(options, name) is not None}
    where = "--args: "
    try:
        request = parse(options.args, options.recipe)
        if policy:
            where = ""
            request = parse(json.dumps(json.loads(options.args or "{}") | policy), options.recipe)
        sys.stdout.buffer.write(answer(sys.stdin.buffer.read(), request))
    except CorruptSample as error:
        print(f"error: standard input is {error}.", file=sys.stderr)
        return 1
    except BadRequest as error:
        print(f"error: {where}{error}.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
