"""Data sets as arrays, lists of texts and data frames, read from unpacked packages."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sources_packages import PACKAGES
from torch import nn

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Texts = tuple[list[str], np.ndarray, list[str], np.ndarray]

# -- images: uint8, (n, height, width) or (n, 3, height, width), with int64 labels ----------------------------------


def fashion_mnist() -> Split:
    """Fashion-MNIST: 60,000 and 10,000 images of 28 x 28, ten kinds of clothes."""
    installed = Path("/usr/share/datasets/fashion-mnist")  # by `apt-get install dataset-fashion-mnist`
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    here = [installed / f"{part}-ubyte.gz" for part in parts]
    if not here[0].exists():
        here = [PACKAGES["fashion_mnist"].file(f"{part}-ubyte.gz") for part in parts]
    return _split([_idx(gzip.decompress(path.read_bytes())) for path in here])


def mnist() -> Split:
    """MNIST: 60,000 and 10,000 images of 28 x 28, ten digits."""
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return _split([_idx(PACKAGES["mnist"].file(f"{part}-ubyte").read_bytes()) for part in parts])


def cifar10() -> Split:
    """CIFAR-10: 50,000 and 10,000 colour images of 32 x 32, ten kinds of things."""
    from PIL import Image

    def images(name: str) -> np.ndarray:
        with Image.open(PACKAGES["cifar10"].file(name)) as picture:
            rows = np.asarray(picture.convert("RGB"))  # one image a row of 1,024 pixels
        return rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).copy()

    def labels(name: str) -> np.ndarray:
        return np.array(json.loads(PACKAGES["cifar10"].file(name).read_text()))

    train = np.concatenate([images(f"data_batch_{batch}.png") for batch in range(1, 6)])
    return _split([train, labels("train_lables.json"), images("test_batch.png"), labels("test_lables.json")])


def pixels(images: np.ndarray, size: int | None = None, normalise: bool = False) -> torch.Tensor:
    """Images as networks take them: float32 (n, channels, height, width) in [0, 1].

    Args:
        images: As the functions above give them; a grey image is repeated in three channels where `normalise` is set.
        size: Height and width to interpolate to.
        normalise: Whether to centre and scale the three channels as networks trained on ImageNet expect.
    """
    x = torch.tensor(images, dtype=torch.float32) / 255
    x = x if x.ndim == 4 else x[:, None]
    if size is not None:
        x = nn.functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True)
    if normalise:
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
        x = (x.expand(-1, 3, -1, -1) - mean) / std
    return x


# -- texts: lists of strings, with int64 labels ---------------------------------------------------------------------


def imdb() -> Texts:
    """Film reviews, liked (1) or not (0): the distinct ones of 50,000, shuffled, half to train and half to test."""
    reviews = json.loads(PACKAGES["imdb"].file("reviews.json").read_text())
    frame = (
        pd.DataFrame(reviews).drop_duplicates("t").sample(frac=1, random_state=0)
    )  # the file is sorted by label
    texts, labels, half = frame["t"].tolist(), frame["s"].to_numpy(np.int64), len(frame) // 2
    return texts[:half], labels[:half], texts[half:], labels[half:]


def complaints() -> Texts:
    """Complaints of bank customers by product, 8 classes: 10,000 to train and 3,000 to test."""
    frames = [pd.read_csv(PACKAGES["complaints"].file(f"datasets/{part}.csv")) for part in ("train", "test")]
    products = sorted(frames[0]["Product"].unique())
    (x_train, y_train), (x_test, y_test) = (
        (frame.iloc[:, 0].tolist(), pd.Categorical(frame["Product"], products).codes.astype(np.int64))
        for frame in frames
    )
    return x_train, y_train, x_test, y_test


# -- tables: data frames; the docstring names the target column -----------------------------------------------------


def census() -> tuple[pd.DataFrame, pd.DataFrame]:
    """U.S. census of 1994-95, train and test: 42 unnamed columns; column 41 is the income class."""
    files = (f"census_income_1994_1995_{part}.csv" for part in ("train", "test"))
    train, test = (
        pd.read_csv(PACKAGES["census"].file(name), header=None, skipinitialspace=True) for name in files
    )
    return train, test


def adult() -> pd.DataFrame:
    """Adult: 15 columns of U.S. adults; `income-per-year` is the target."""
    return pd.read_csv(PACKAGES["adult"].file("raw/adult.csv"), skipinitialspace=True)


def keel(name: str) -> pd.DataFrame:
    """A set of the KEEL collection ("letter", "mushroom", "titanic", ...); the last column is the class."""
    return pd.read_csv(PACKAGES["keel"].file(f"raw/{name}.dat"), header=None, skipinitialspace=True)


def california_housing() -> pd.DataFrame:
    """Blocks of California in 1990: `median_house_value` is the target, `ocean_proximity` is categorical."""
    return pd.read_csv(PACKAGES["california_housing"].file("housing/housing.csv"))


def house_prices() -> pd.DataFrame:
    """Flats sold in Singapore: `resale_price` is the target; several columns are categorical."""
    return pd.read_csv(PACKAGES["house_prices"].file("datasets/train.csv"))


def protein() -> pd.DataFrame:
    """CASP, physical properties of protein structures: `RMSD` is the target, nine numbers describe it."""
    return pd.read_csv(PACKAGES["common"].file("CASP.csv"))


def fars() -> pd.DataFrame:
    """People in fatal road accidents in the U.S.; the last column, the injury, is the target."""
    lines = PACKAGES["common"].file("fars.dat").read_text().splitlines()
    names = [line.split()[1] for line in lines if line.lower().startswith("@attribute")]
    rows = [line.split(",") for line in lines if line and not line.startswith("@")]
    return pd.DataFrame([[cell.strip() for cell in row] for row in rows], columns=names)


def flights() -> pd.DataFrame:
    """Three million flights in the U.S.: date, delay in minutes, distance, origin, destination."""
    return pd.read_parquet(PACKAGES["flights"].file("flights-3m.parquet"))


def fraud() -> pd.DataFrame:
    """Card transactions, a part of them fraudulent: `isFraud` is the target."""
    return pd.read_csv(PACKAGES["fraud"].file("interim/train.csv"))


# -- reading ---------------------------------------------------------------------------------------------------------


def _idx(data: bytes) -> np.ndarray:
    """An array of bytes in the format of MNIST: two zeros, a type, the number of axes, the lengths, the values."""
    shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape).copy()


def _split(arrays: list[np.ndarray]) -> Split:
    x_train, y_train, x_test, y_test = arrays
    return x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)
