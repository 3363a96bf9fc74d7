"""The strengths of the policies' operations: numbers, not formulas, so that no machine computes others.

Each line of eight digits is the bits of a float32. Those of torchvision are what ``torch.linspace`` gives on processors
with AVX2 or AVX-512, rounded once; its other kernels round twice, and give others. ``tests/unit/test_policies.py``
compares.
"""

import numpy as np


def _float32(digits: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(digits), ">f4").astype(np.float32)


def _integers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


WIDE = _float32(
    "000000003d072b023d872b023dcac0833e072b023e28f5c23e4ac0833e6c8b443e872b023e9810623ea8f5c23eb9db23"
    "3ecac0833edba5e33eec8b443efd70a43f072b023f0f9db23f1810623f2083133f28f5c33f3168733f39db233f424dd3"
    "3f4ac0833f5333333f5ba5e43f6418943f6c8b443f74fdf43f7d70a4"
)
"""31 bins from 0 to 0.99: TrivialAugment's shear and its strengths of enhancement."""

DEGREES_135 = _float32(
    "000000004090000041100000415800004190000041b4000041d8000041fc000042100000422200004234000042460000"
    "42580000426a0000427c000042870000429000004299000042a2000042ab000042b4000042bd000042c6000042cf0000"
    "42d8000042e1000042ea000042f3000042fc00004302800043070000"
)
"""31 bins from 0 to 135: TrivialAugment's rotation."""

SHEAR_31 = _float32(
    "000000003c23d70b3ca3d70b3cf5c2903d23d70b3d4cccce3d75c2903d8f5c2a3da3d70b3db851ec3dccccce3de147af"
    "3df5c2903e051eb93e0f5c2a3e19999a3e23d70a3e2e147b3e3851ec3e428f5c3e4ccccd3e570a3e3e6147ae3e6b851f"
    "3e75c2903e8000003e851eb93e8a3d713e8f5c293e947ae23e99999a"
)
"""31 bins from 0 to 0.3: RandAugment's shear."""

ENHANCE_31 = _float32(
    "000000003cf5c28f3d75c28f3db851eb3df5c28f3e1999993e3851eb3e570a3d3e75c28f3e8a3d703e9999993ea8f5c2"
    "3eb851eb3ec7ae143ed70a3d3ee666663ef5c28f3f028f5c3f0a3d703f11eb853f1999993f2147ae3f28f5c23f30a3d7"
    "3f3851eb3f4000003f47ae143f4f5c293f570a3d3f5eb8523f666666"
)
"""31 bins from 0 to 0.9: RandAugment's strengths of enhancement."""

DEGREES_31 = _float32(
    "000000003f80000040000000404000004080000040a0000040c0000040e0000041000000411000004120000041300000"
    "414000004150000041600000417000004180000041880000419000004198000041a0000041a8000041b0000041b80000"
    "41c0000041c8000041d0000041d8000041e0000041e8000041f00000"
)
"""31 bins from 0 to 30: RandAugment's rotation."""

SHEAR_10 = _float32("000000003d0888893d8888893dccccce3e0888893e2aaaab3e4ccccd3e6eeef03e8888893e99999a")
"""10 bins from 0 to 0.3: AutoAugment's shear."""

ENHANCE_10 = _float32("000000003dcccccc3e4ccccc3e9999993ecccccc3f0000003f19999a3f3333333f4ccccc3f666666")
"""10 bins from 0 to 0.9: AutoAugment's strengths of enhancement."""

DEGREES_10 = _float32("000000004055555540d5555541200000415555554185555641a0000041baaaab41d5555541f00000")
"""10 bins from 0 to 30: AutoAugment's rotation."""

BLUR_RADII = _float32(
    "3adb2f183b3a18553b8d94143bc891ba3c071eeb3c2f6e183c5d5e1b3c888e7b3ca56fac3cc570983ce8b32b3d07aed1"
    "3d1ccd7a3d33cdab3d4cca6d3d67e2063d829b2e3d9276bc3da398fe3db619f43dca148f3ddfa7473df6f4823e0811a3"
    "3e15aff93e246e993e346a813e45c5193e58a4ec3e6d36c63e81d77c3e8e25743e9ba9973eaa8f273ebb09f83ecd58c9"
    "3ee1c8343ef8b6de3f094d6b3f1804bd3f28e1493f3c60333f5327f33f6e1af23f80b2fd3f82656f3f8428ee3f85fe33"
    "3f87e6033f89e1303f8bf09a3f8e15323f904ff63f92a1f83f950c5e3f9790613f9a2f543f9ceaa13f9fc3cd3fa2bc7e"
    "3fa5d6773fa913a23fac76113fb00000"
)
"""Radius of the box whose three passes Pillow takes for a Gaussian blur of 0.1 + 1.9 k / 63 pixels, k from 0 to 63."""

BLUR_WEIGHTS = _integers(
    "16721291 16682474 16633482 16574318 16504978 16425469 16335785 16235926 16125897 16005692 15875316 15734766 "
    "15584042 15423146 15252077 15070835 14879419 14677830 14466069 14244134 14012026 13769745 13517291 13254662 "
    "12981863 12698888 12405742 12102422 11788928 11465262 11131422 10787410 10433225 10068866 9694334 9309628 "
    "8914752 8509700 8094474 7669078 7233507 6787762 6331845 5865755 5572114 5523470 5473809 5423131 5371435 "
    "5318722 5264992 5210245 5154480 5097698 5039898 4981082 4921247 4860396 4798527 4735641 4671738 4606817 "
    "4540879 4473924"
)
"""Weight of a whole pixel in such a box, with 24 fractional bits."""

LEVEL_OFFSETS = _integers(
    "5910 5162 4783 4519 4314 4145 4000 3873 3759 3656 3562 3474 3392 3316 3243 3175 3110 3048 2988 2931 2877 "
    "2824 2773 2723 2676 2629 2584 2540 2498 2456 2415 2375 2337 2299 2261 2225 2189 2154 2119 2085 2052 2019 "
    "1987 1955 1923 1892 1862 1832 1802 1773 1744 1715 1687 1659 1631 1604 1577 1550 1523 1497 1471 1445 1419 "
    "1394 1369 1344 1319 1294 1270 1246 1222 1198 1174 1151 1127 1104 1081 1058 1035 1012 990 967 945 923 901 878 "
    "857 835 813 791 770 748 727 706 684 663 642 621 600 579 558 538 517 496 475 455 434 414 393 373 353 332 312 "
    "292 272 251 231 211 191 171 151 130 110 90 70 50 30 10"
)
"""How far levels of N(m, 0.5) lie from m, with 12 fractional bits: in the middles of 256 parts of equal weight."""

POLICIES_OF_AUTOAUGMENT = (
    (("posterize", 4, 8), ("rotate", 6, 9)),
    (("solarize", 6, 5), ("autocontrast", 6, 0)),
    (("equalize", 8, 0), ("equalize", 6, 0)),
    (("posterize", 6, 7), ("posterize", 6, 6)),
    (("equalize", 4, 0), ("solarize", 2, 4)),
    (("equalize", 4, 0), ("rotate", 8, 8)),
    (("solarize", 6, 3), ("equalize", 6, 0)),
    (("posterize", 8, 5), ("equalize", 10, 0)),
    (("rotate", 2, 3), ("solarize", 6, 8)),
    (("equalize", 6, 0), ("posterize", 4, 6)),
    (("rotate", 8, 8), ("color", 4, 0)),
    (("rotate", 4, 9), ("equalize", 6, 0)),
    (("equalize", 0, 0), ("equalize", 8, 0)),
    (("invert", 6, 0), ("equalize", 10, 0)),
    (("color", 6, 4), ("contrast", 10, 8)),
    (("rotate", 8, 8), ("color", 10, 2)),
    (("color", 8, 8), ("solarize", 8, 7)),
    (("sharpness", 4, 7), ("invert", 6, 0)),
    (("shear_x", 6, 5), ("equalize", 10, 0)),
    (("color", 4, 0), ("equalize", 6, 0)),
    (("equalize", 4, 0), ("solarize", 2, 4)),
    (("solarize", 6, 5), ("autocontrast", 6, 0)),
    (("invert", 6, 0), ("equalize", 10, 0)),
    (("color", 6, 4), ("contrast", 10, 8)),
    (("equalize", 8, 0), ("equalize", 6, 0)),
)
"""AutoAugment's for ImageNet (Cubuk et al., 2019): two operations each, with tenths of their probability and a bin."""
