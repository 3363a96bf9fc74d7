"""How the photos of an evaluation are made: as those of the weights were, unless options say otherwise."""

from training.config.schema import Config
from training.model.bundle import Preprocessing, builder

_OPTIONS = {"image_size": "val_image_size", "resize": "val_resize", "interpolation": "interpolation"}
"""Field of ``Preprocessing`` → the option of ``data`` that decides it."""


def settle_images(config: Config) -> list[str]:
    """Fill in what the options do not say of the images, and answer sentences that tell what was taken from where.

    Raises ConfigError for a model that is unknown and for weights that cannot be read.
    """
    data = config.data
    given = [option for option in _OPTIONS.values() if getattr(data, option) is not None]
    own = builder(config.model.name).own_preprocessing(config.model, data.val_image_size)
    if own.images is None:
        data.settle()
    else:
        data.settle(own.images.resize, own.images.interpolation, own.images.image_size)
    taken = Preprocessing(data.val_side, *data.making)
    sentence = f"preprocessing: {words(taken)}, {_source(own.who, own.images, taken, given)}"
    return [sentence, *([own.warning] if own.warning else [])]


def words(images: Preprocessing) -> str:
    """What is done to a photo, for a sentence."""
    return (
        f"the short side becomes {images.resize} pixels ({images.interpolation}, antialiased), of which the central "
        f"{images.image_size} x {images.image_size} are taken"
    )


def _source(who: str, theirs: Preprocessing | None, taken: Preprocessing, given: list[str]) -> str:
    """Say where the preprocessing was taken from; ``given`` lists the options that were given."""
    options = f"by the options {', '.join(f'data.{name}' for name in given)}" if given else ""
    if theirs is None:
        return f"{options or 'by default'}, since {who}"
    if not given:
        return f"as {who}"
    others = [
        f"data.{option}={getattr(theirs, field)}"
        for field, option in _OPTIONS.items()
        if getattr(theirs, field) != getattr(taken, field)
    ]
    if not others:
        return f"{options}, and the rest as {who}" if len(given) < len(_OPTIONS) else options
    return f"{options}; {who} with {', '.join(others)}"
