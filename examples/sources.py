"""Real data and pretrained networks for the examples, read offline from packages.

Run: python examples/sources.py                      what there is, and what of it is here
     python examples/sources.py --get cifar10 imdb   download packages and unpack them into the folder of data

Nothing is downloaded unless --get asks for it; a function whose package is not here raises Missing, which says in one
line how to get it. The folder is $FEATGEO_DATA, by default ~/.cache/featgeo. Networks that come as installable packages
are in examples/requirements.txt (`make examples`). Every set and network keeps its own licence.
"""

import argparse

from sources_data import (
    Split,
    Texts,
    adult,
    california_housing,
    census,
    cifar10,
    complaints,
    fars,
    fashion_mnist,
    flights,
    fraud,
    house_prices,
    imdb,
    keel,
    mnist,
    pixels,
    protein,
)
from sources_networks import (
    SentenceEncoder,
    crepe,
    declare_vision_operators,
    efficientnet_lite0,
    geoclip,
    minilm,
    mobilenet_v2,
    voice_encoder,
)
from sources_packages import PACKAGES, Missing

__all__ = [
    "Missing",
    "SentenceEncoder",
    "Split",
    "Texts",
    "adult",
    "california_housing",
    "census",
    "cifar10",
    "complaints",
    "crepe",
    "declare_vision_operators",
    "efficientnet_lite0",
    "fars",
    "fashion_mnist",
    "flights",
    "fraud",
    "geoclip",
    "house_prices",
    "imdb",
    "keel",
    "minilm",
    "mnist",
    "mobilenet_v2",
    "pixels",
    "protein",
    "voice_encoder",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--get", nargs="+", choices=[*PACKAGES, "all"], default=[], metavar="NAME")
    names = parser.parse_args().get
    for name in PACKAGES if "all" in names else names:
        print(f"{name}: {PACKAGES[name].get()}")
    if not names:
        for name, package in PACKAGES.items():
            print(
                f"{name:20}{'here' if package.folder.exists() else '-':6}{package.what} ({package.licence})"
            )


if __name__ == "__main__":
    main()
