"""Where objects lie: as AIStore itself places them."""

from typing import Any

from aistore.sdk.utils import get_digest, xoshiro256_hash

from aistore_data.client.placement import Placement


def node(number: int, flags: int = 0) -> dict[str, Any]:
    return {
        "id_digest": str(get_digest(f"t{number}")),
        "flags": str(flags),
        "public_net": {"direct_url": f"http://h{number}:1"},
    }


def test_names_are_placed_as_the_sdk_places_them() -> None:
    nodes = {f"t{number}": node(number) for number in range(7)}
    placement = Placement({"tmap": nodes}, "http://proxy:1")
    names = [f"ais/@#/b/train/ä {number}.jpg" for number in range(300)]
    expected = []
    for name in names:
        weights = [xoshiro256_hash(int(each["id_digest"]) ^ get_digest(name)) for each in nodes.values()]
        expected.append(weights.index(max(weights)))
    assert placement.numbers_of(names) == expected and set(expected) == set(range(7))
    assert placement.hosts == tuple(f"h{number}:1" for number in range(7))


def test_nodes_out_of_service_hold_nothing_and_without_a_map_all_is_asked_of_the_proxy() -> None:
    placement = Placement({"tmap": {"a": node(0, flags=4), "b": node(1), "c": node(2, flags=8)}}, "http://proxy:1")
    assert placement.hosts == ("h1:1",) and placement.numbers_of(["x", "y"]) == [0, 0]
    assert Placement({}, "http://proxy:1").hosts == ("proxy:1",)
