"""Whether a running ETL proves what its answers are answers to."""

from aistore_data.client.http_reader import HttpReader, object_path
from sources.errors import ClusterError, ObjectError
from sources.manifest import Manifest

INFO_BYTES = 1 << 16
"""Of an ETL's answer to wire=info, at most."""


def knows_tags(reader: HttpReader, uri: str, manifest: Manifest, name: str) -> bool:
    """Whether ETL ``name`` does; one of an earlier version knows no ``tag``.

    Raises ClusterError if it does not answer.
    """
    path = object_path(uri, manifest.name(0), etl_name=name, etl_args='{"wire":"info","tag":0}')
    try:
        reader.get(path, INFO_BYTES)
    except ObjectError as error:
        if error.status == 400:  # an unknown field
            return False
        raise unanswered(name, f"{uri}/{manifest.name(0)}", error) from None
    return True


def unanswered(name: str, where: str, error: ObjectError) -> ClusterError:
    """The sentence for an ETL that does not answer for an object."""
    return ClusterError(
        f"ETL {name} does not answer for {where}: {error}. Check that it runs and that its code is this version's; "
        "data.etl.manage=auto starts ETLs, and data.transform=client needs none."
    )
