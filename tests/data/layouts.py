"""The layouts of public data sets, made small, and what is understood of each.

    .venv/bin/python -m tests.data.layouts     # Prints the table of docs/formats.md.

Each layout has the names of files, folders and columns that the data set is distributed with, as
its documentation and the loaders of other libraries describe them, and made-up content.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import pickle
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Dataset
from trainer.errors import TrainerError

Files = Mapping[str, bytes | str]


@dataclass(frozen=True)
class Layout:
    """A data set.

    Attributes:
        name: of the data set.
        files: content of each file, by its path.
        classes: the expected number of classes; None if the data is refused.
        splits: the expected splits.
        refusal: a part of the expected message, if the data is refused.
        options: flags that the user needs.
        data: path below the folder to give to --data.
    """

    name: str
    files: Files
    classes: int | None = None
    splits: str = "train"
    refusal: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""


def photo(number: int = 0, form: str = "JPEG", size: tuple[int, int] = (12, 10)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form)
    return content.getvalue()


def photos(*folders: str, suffix: str = ".jpg", count: int = 4) -> dict[str, bytes]:
    form = "PNG" if suffix.lower() == ".png" else "JPEG"
    return {f"{folder}/{n:04}{suffix}": photo(n, form) for folder in folders for n in range(count)}


def texts(*folders: str, name: str = "{}.txt", count: int = 4) -> dict[str, str]:
    return {
        f"{folder}/{name.format(n)}": f"a text of {n} words\nabout {folder}"
        for folder in folders
        for n in range(count)
    }


def csv(header: str, rows: Sequence[Sequence[object]], delimiter: str = ",") -> str:
    lines = [header] if header else []
    return "\n".join([*lines, *(delimiter.join(map(str, row)) for row in rows)]) + "\n"


def reviews(count: int = 24) -> list[tuple[str, int]]:
    words = ("good", "bad")
    return [(f"what a {words[n % 2]} film it was {n}", n % 2) for n in range(count)]


def idx(shape: tuple[int, ...]) -> bytes:
    values = (np.arange(int(np.prod(shape))) % (2 if len(shape) == 1 else 251)).astype(np.uint8)
    header = struct.pack(">HBB", 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape)
    return gzip.compress(header + values.tobytes())


def mnist(prefix: str = "", names: tuple[str, str] = ("train", "t10k")) -> dict[str, bytes]:
    files = {}
    for split, count in zip(names, (24, 8), strict=True):
        files[f"{prefix}{split}-images-idx3-ubyte.gz"] = idx((count, 6, 6))
        files[f"{prefix}{split}-labels-idx1-ubyte.gz"] = idx((count,))
    return files


def parquet_of(columns: dict[str, Any], features: dict[str, Any] | None = None) -> bytes:
    content = io.BytesIO()
    table = pyarrow.table(columns)
    if features:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    parquet.write_table(table, content)
    return content.getvalue()


def cifar(labels: str) -> bytes:
    data = {b"data": np.arange(20 * 3072, dtype=np.int64).reshape(20, 3072).astype(np.uint8),
            labels.encode(): [n % 2 for n in range(20)], b"filenames": [b"x.png"] * 20}  # fmt: skip
    return pickle.dumps(data, protocol=2)


def npz(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


IMAGES = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), np.uint8)
LABELS = np.arange(24) % 2
DIGITS = [[n % 2, *([9 * n] * 64)] for n in range(24)]
PIXELS = ",".join(f"pixel{n}" for n in range(64))
LABEL = {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}
UNCLEAR = "give the column of the"

LAYOUTS = (
    # Images: IDX, pickles, arrays.
    Layout("MNIST, Fashion-MNIST, KMNIST", mnist(), 2, "train test"),
    Layout("EMNIST, one of its sets", mnist("emnist-letters-", ("train", "test")), 2, "train test"),
    Layout("CIFAR-10, Python", {f"data_batch_{n}": cifar("labels") for n in range(1, 6)}
           | {"test_batch": cifar("labels"), "readme.html": "x",
              "batches.meta": pickle.dumps({b"label_names": [b"cat", b"dog"]}, protocol=2)},
           2, "train test", options={"allow_pickle": True}),
    Layout("MedMNIST", {"pathmnist.npz": npz(
        train_images=IMAGES, train_labels=LABELS[:, np.newaxis], val_images=IMAGES[:8],
        val_labels=LABELS[:8, np.newaxis], test_images=IMAGES[:8],
        test_labels=LABELS[:8, np.newaxis])}, 2, "train validation test"),
    Layout("Keras's mnist.npz", {"mnist.npz": npz(
        x_train=IMAGES[..., 0], y_train=LABELS, x_test=IMAGES[:8, ..., 0], y_test=LABELS[:8])},
           2, "train test"),
    # Images: folders.
    Layout("ImageNet, ILSVRC2012", photos("train/n01440764", "train/n01443537", suffix=".JPEG")
           | photos("val", suffix=".JPEG"), 2),
    Layout("Imagenette", photos("train/n01440764", "train/n02102040", "val/n01440764",
                                "val/n02102040", suffix=".JPEG")
           | {"noisy_imagenette.csv": csv(
               "path,noisy_labels_0,noisy_labels_1,is_valid",
               [(f"train/n01440764/{n:04}.JPEG", "n01440764", "n02102040", False)
                for n in range(4)])}, 2, "train validation"),
    Layout("Tiny ImageNet", photos("train/n01/images", "train/n02/images", "val/images",
                                   "test/images", suffix=".JPEG")
           | {"train/n01/n01_boxes.txt": "x\n", "wnids.txt": "n01\nn02\n", "words.txt": "n01\tx\n",
              "val/val_annotations.txt": csv("", [(f"{n:04}.JPEG", "n01", 0, 0, 9, 9)
                                                  for n in range(4)], "\t")}, 2),
    Layout("Caltech-101", photos("101_ObjectCategories/accordion", "101_ObjectCategories/anchor"),
           2),
    Layout("tf_flowers", photos("flower_photos/daisy", "flower_photos/roses")
           | {"flower_photos/LICENSE.txt": "CC-BY"}, 2),
    Layout("Stanford Dogs", photos("Images/n02085620-Chihuahua", "Images/n02085782-spaniel"), 2),
    Layout("Food-101", photos("food-101/images/apple_pie", "food-101/images/waffles")
           | {"food-101/meta/classes.txt": "apple_pie\nwaffles\n",
              "food-101/meta/labels.txt": "Apple pie\nWaffles\n",
              "food-101/meta/train.txt": "apple_pie/0000\nwaffles/0000\n",
              "food-101/meta/train.json": '{"apple_pie": ["apple_pie/0000"]}',
              "food-101/license_agreement.txt": "x\n", "food-101/README.txt": "x\n"}, 2),
    Layout("Cats and dogs of Microsoft", photos("PetImages/Cat", "PetImages/Dog", count=12)
           | {"PetImages/Cat/666.jpg": b"", "PetImages/Cat/Thumbs.db": b"x",
              "readme[1].txt": "x", "MSR-LA - 3467.docx": b"x"}, 2),
    Layout("Dogs vs. Cats, Kaggle", {f"train/{('cat', 'dog')[n % 2]}.{n}.jpg": photo(n)
                                     for n in range(8)} | photos("test1"),
           refusal="one folder per class"),
    Layout("Intel Image Classification", photos(
        "seg_train/seg_train/forest", "seg_train/seg_train/sea", "seg_test/seg_test/forest",
        "seg_test/seg_test/sea", "seg_pred/seg_pred"), 2, "train test"),
    Layout("Chest X-Ray (Pneumonia)", photos(
        *(f"chest_xray/{split}/{name}" for split in ("train", "val", "test")
          for name in ("NORMAL", "PNEUMONIA")), suffix=".jpeg")
           | {"chest_xray/__MACOSX/._x": b"x", "chest_xray/train/.DS_Store": b"x"},
           2, "train validation test"),
    Layout("EuroSAT", photos("2750/AnnualCrop", "2750/Forest"), 2),
    Layout("Fruits 360", photos("Training/Apple Red 1", "Training/Banana", "Test/Apple Red 1",
                                "Test/Banana", "test-multiple_fruits"), 2, "train test"),
    Layout("Export of Roboflow", photos("train/fresh", "train/rotten", "valid/fresh",
                                        "valid/rotten", "test/fresh", "test/rotten")
           | {"README.roboflow.txt": "x", "README.dataset.txt": "x"}, 2, "train validation test"),
    Layout("ORL faces", {f"s{n}/{m}.pgm": b"P5 4 4 255\n" + bytes([40 * m + n] * 8 + [9] * 8)
                         for n in (1, 2) for m in range(6)}, 2),
    # Images: tables.
    Layout("GTSRB, Kaggle", photos("Train/0", "Train/1", suffix=".png")
           | {f"Test/{n:05}.png": photo(n, "PNG") for n in range(4)}
           | {"Train.csv": csv("Width,Height,Roi.X1,ClassId,Path", [
                  (12, 10, 1, n, f"Train/{n}/{m:04}.png") for n in range(2) for m in range(4)]),
              "Test.csv": csv("Width,Height,Roi.X1,ClassId,Path", [
                  (12, 10, 1, n % 2, f"Test/{n:05}.png") for n in range(4)])},
           2, "train test", options={"label_column": "ClassId"}),
    Layout("HAM10000", {f"HAM10000_images_part_{1 + n % 2}/ISIC_{n:07}.jpg": photo(n)
                        for n in range(12)}
           | {"HAM10000_metadata.csv": csv(
               "lesion_id,image_id,dx,dx_type,age,sex,localization",
               [(f"HAM_{n:07}", f"ISIC_{n:07}", ("nv", "mel")[n % 2], "histo", 40.0 + n, "male",
                 "back") for n in range(12)])}, 2, options={"label_column": "dx"}),
    Layout("Dog Breed Identification", {f"train/{n:032x}.jpg": photo(n) for n in range(12)}
           | photos("test")
           | {"labels.csv": csv("id,breed", [(f"{n:032x}", ("pug", "boxer")[n % 2])
                                             for n in range(12)]),
              "sample_submission.csv": csv("id,boxer,pug", [(f"{n:032x}", 0.5, 0.5)
                                                           for n in range(4)])}, 2),
    Layout("APTOS 2019", {f"train_images/{n:012x}.png": photo(n, "PNG") for n in range(12)}
           | {f"test_images/{n:012x}.png": photo(n, "PNG") for n in range(50, 54)}
           | {"train.csv": csv("id_code,diagnosis", [(f"{n:012x}", n % 2) for n in range(12)]),
              "test.csv": csv("id_code", [(f"{n:012x}",) for n in range(50, 54)]),
              "sample_submission.csv": csv("id_code,diagnosis", [(f"{n:012x}", 0)
                                                                for n in range(50, 54)])}, 2),
    Layout("Digit Recognizer, Kaggle", {"train.csv": csv(f"label,{PIXELS}", DIGITS),
                                        "test.csv": csv(PIXELS, [row[1:] for row in DIGITS]),
                                        "sample_submission.csv": csv("ImageId,Label", [
                                            (n, 0) for n in range(1, 9)])}, 2),
    Layout("MNIST in CSV", {"mnist_train.csv": csv("", DIGITS),
                            "mnist_test.csv": csv("", DIGITS[:8])}, 2, "train test"),
    Layout("FER-2013", {"fer2013.csv": csv("emotion,pixels,Usage", [
        (n % 2, " ".join(["7"] * 64), ("Training", "PublicTest", "PrivateTest")[n // 16])
        for n in range(40)])}, 2, "train test"),
    Layout("imagefolder with metadata, Hugging Face", photos("train", "test", suffix=".png")
           | {f"{split}/metadata.csv": csv("file_name,label", [(f"{n:04}.png", "ab"[n % 2])
                                                              for n in range(4)])
              for split in ("train", "test")}, 2, "train test"),
    Layout("Beans, Hugging Face", {
        f"data/{split}-00000-of-00001.parquet": parquet_of(
            {"image": [{"bytes": photo(n), "path": f"{n}.jpg"} for n in range(8)],
             "labels": [n % 2 for n in range(8)]}, {"labels": LABEL["label"]})
        for split in ("train", "validation", "test")} | {"README.md": "x", ".gitattributes": "x"},
           2, "train validation test"),
    Layout("Import file of Vertex AI, images", photos("images", count=12)
           | {"import.csv": csv("", [(("training", "validation", "test")[n % 3],
                                      f"images/{n:04}.jpg", "ab"[n // 6]) for n in range(12)])},
           2, "train validation test"),
    # Texts: folders and files.
    Layout("IMDB (aclImdb)", texts("aclImdb/train/pos", "aclImdb/train/neg", "aclImdb/test/pos",
                                   "aclImdb/test/neg", "aclImdb/train/unsup")
           | {"aclImdb/README": "x", "aclImdb/imdb.vocab": "the\n", "aclImdb/imdbEr.txt": "0.1\n",
              "aclImdb/train/labeledBow.feat": "9 0:9\n", "aclImdb/train/urls_pos.txt": "http\n"},
           2, "train test"),
    Layout("20 Newsgroups", texts(
        *(f"20news-bydate-{split}/{name}" for split in ("train", "test")
          for name in ("alt.atheism", "sci.space")), name="4996{}"), 2, "train test"),
    Layout("Movie reviews, polarity 2.0", texts("txt_sentoken/neg", "txt_sentoken/pos")
           | {"poldata.README.2.0": "x"}, 2),
    Layout("BBC News", texts("bbc/business", "bbc/sport") | {"bbc/README.TXT": "x"}, 2),
    # Texts: tables.
    Layout("AG News, DBpedia, Yelp of Zhang", {
        "train.csv": csv("", [(f'"{1 + n}"', f'"title {t}"', f'"{t}, and more"')
                              for t, n in reviews()]),
        "test.csv": csv("", [(f'"{1 + n}"', f'"title {t}"', f'"{t}, and more"')
                             for t, n in reviews(8)]),
        "classes.txt": "Good\nBad\n", "readme.txt": "x\n"}, 2, "train test",
           options={"label_column": "1", "text_column": "3"}),
    Layout("Amazon Reviews, fastText", {
        f"{split}.ft.txt.bz2": bz2.compress("".join(
            f"__label__{1 + n} {t}\n" for t, n in reviews()).encode())
        for split in ("train", "test")}, 2, "train test"),
    Layout("SMS Spam Collection", {
        "SMSSpamCollection": csv("", [(("ham", "spam")[n], t) for t, n in reviews()], "\t"),
        "readme": "x"}, 2),
    Layout("SMS Spam, Kaggle", {
        "spam.csv": csv("v1,v2,,,", [(("ham", "spam")[n], f"{t} caf\xe9", "", "", "")
                                     for t, n in reviews()]).encode("latin-1")}, 2),
    Layout("Sentiment140", {
        "training.1600000.processed.noemoticon.csv": csv("", [
            (f'"{4 * n}"', f'"{1467810369 + i * 7}"', '"Mon Apr 06"', '"NO_QUERY"', f'"user{i}"',
             f'"{t}"') for i, (t, n) in enumerate(reviews())]),
        "testdata.manual.2009.06.14.csv": csv("", [
            (f'"{4 * n}"', f'"{i}"', '"Mon May 11"', '"kindle2"', f'"user{i}"', f'"{t}"')
            for i, (t, n) in enumerate(reviews(12))])}, 2, "train test",
           options={"label_column": "1", "text_column": "6"}),
    Layout("SST-2, GLUE", {
        "train.tsv": csv("sentence\tlabel", reviews(), "\t"),
        "dev.tsv": csv("sentence\tlabel", reviews(8), "\t"),
        "test.tsv": csv("index\tsentence", [(n, t) for n, (t, _) in enumerate(reviews(8))], "\t")},
           2, "train validation"),
    Layout("TweetEval, emotion, Hugging Face", {
        f"{split}-00000-of-00001.parquet": parquet_of(
            {"text": [t for t, _ in reviews()], "label": [n for _, n in reviews()]}, LABEL)
        for split in ("train", "validation", "test")}, 2, "train validation test"),
    Layout("SST-2, Hugging Face, unlabelled test", {
        f"{split}-00000-of-00001.parquet": parquet_of(
            {"idx": list(range(24)), "sentence": [t for t, _ in reviews()],
             "label": [n if split != "test" else -1 for _, n in reviews()]}, LABEL)
        for split in ("train", "validation", "test")}, 2, "train validation"),
    Layout("Banking77", {"train.csv": csv("text,category", reviews()),
                         "test.csv": csv("text,category", reviews(8)),
                         "categories.json": '["card", "loan"]'}, 2, "train test"),
    Layout("Twitter US Airline Sentiment", {"Tweets.csv": csv(
        "tweet_id,airline_sentiment,airline_sentiment_confidence,airline,name,text,tweet_created",
        [(570306133677760513 + i, ("positive", "negative")[n], 0.5 + i / 100, "Virgin", f"u{i}", t,
          f"2015-02-24 11:35:{i:02}") for i, (t, n) in enumerate(reviews())])},
           2, options={"label_column": "airline_sentiment"}),
    Layout("Yelp Open Dataset", {"yelp_academic_dataset_review.json": "\n".join(
        json.dumps({"review_id": f"id{i}x", "user_id": f"u{i}", "stars": 1.0 + 4 * n, "useful": 0,
                    "text": t, "date": "2018-07-07 22:09:11"})
        for i, (t, n) in enumerate(reviews()))}, 2, options={"label_column": "stars"}),
    Layout("Rotten Tomatoes, Kaggle", {
        "train.tsv": csv("PhraseId\tSentenceId\tPhrase\tSentiment", [
            (i, i // 3, t, n) for i, (t, n) in enumerate(reviews())], "\t"),
        "test.tsv": csv("PhraseId\tSentenceId\tPhrase", [
            (i, i // 3, t) for i, (t, n) in enumerate(reviews(8))], "\t"),
        "sampleSubmission.csv": csv("PhraseId,Sentiment", [(n, 2) for n in range(8)])}, 2),
    Layout("Disaster tweets, Kaggle", {
        "train.csv": csv("id,keyword,location,text,target", [
            (i, "fire", "", t, n) for i, (t, n) in enumerate(reviews())]),
        "test.csv": csv("id,keyword,location,text", [
            (i, "fire", "", t) for i, (t, n) in enumerate(reviews(8))]),
        "sample_submission.csv": csv("id,target", [(n, 0) for n in range(8)])}, 2),
    # Numbers.
    Layout("Iris, UCI", {"iris.data": csv("", [(5.1 + n / 10, 3.5, 1.4, 0.2,
                                               ("Iris-setosa", "Iris-virginica")[n % 2])
                                              for n in range(24)]),
                         "iris.names": "x"}, 2),
    Layout("Wine, UCI", {"wine.data": csv("", [(1 + n % 2, 14.2 + n / 10, 1.7, 2.4)
                                               for n in range(24)]), "wine.names": "x"}, 2,
           options={"label_column": "1"}),
    Layout("Breast Cancer Wisconsin, Kaggle", {"data.csv": csv(
        "id,diagnosis,radius_mean,texture_mean,", [
            (842302 + 7 * n, "MB"[n % 2], 17.9 - n / 7, 10.3 + n, "") for n in range(24)])}, 2),
    Layout("Titanic, Kaggle", {"train.csv": csv(
        "PassengerId,Survived,Pclass,Name,Sex,Age", [
            (n + 1, n % 2, 1 + n % 3, f'"Braund, Mr. Owen {n}"', ("male", "female")[n % 2], 22 + n)
            for n in range(24)])}, refusal=UNCLEAR),
    # Not readable: say so.
    Layout("SVHN", {"train_32x32.mat": b"MATLAB 5.0 MAT-file", "test_32x32.mat": b"MATLAB 5.0"},
           refusal="no known format"),
    Layout("Oxford-IIIT Pet", {f"images/{name}_{n}.jpg": photo(n) for n in range(4)
                               for name in ("Abyssinian", "pug")}
           | {"annotations/list.txt": "#Image CLASS-ID SPECIES BREED\nAbyssinian_1 1 1 1\n",
              "annotations/README": "x"}, refusal="one class"),
    Layout("PlantVillage", photos("color/Apple___scab", "color/Apple___healthy",
                                  "grayscale/Apple___scab", "grayscale/Apple___healthy"),
           refusal="several data sets"),
)  # fmt: skip


def make(layout: Layout, root: Path) -> str:
    """Writes the files of a layout; returns the value of --data."""
    for name, content in layout.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(root / layout.data)


def outcome(layout: Layout, root: Path) -> tuple[str, str, int | None, str]:
    """Reads a layout; returns what was read, what was left out, the number of classes, the splits.

    For data that is refused, the first is the message.
    """
    data = make(layout, root)
    try:
        options = DataOptions(data=data, **layout.options)
        raw = loader.read(data, options)
        Dataset.split(raw, seed=0, validation_split=0.0)
    except TrainerError as error:
        return str(error).removeprefix(f"{data}: ").replace(data, "DATA"), "", None, ""
    splits = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    present = [name for name, split in splits.items() if split is not None]
    assert raw.source is not None
    classes = len(raw.classes) if raw.classes else int(raw.train[1].max()) + 1
    return raw.source.summary, raw.source.left_out, classes, " ".join(present)


def rows() -> Iterator[str]:
    """Yields the lines of the table of docs/formats.md."""
    yield "| data set | read as | splits | left out, or why it is refused |"
    yield "|---|---|---|---|"
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory() as folder:
            summary, left_out, classes, splits = outcome(layout, Path(folder))
        flags = " ".join(f"`--{name.replace('_', '-')} {value}`" if value is not True
                         else f"`--{name.replace('_', '-')}`"
                         for name, value in layout.options.items())  # fmt: skip
        name = f"{layout.name}, {flags}" if flags else layout.name
        cells = (summary, splits, left_out) if classes else ("refused", "", summary)
        yield " | ".join(["| " + name, *(cell.replace("|", "\\|") for cell in cells)]) + " |"


if __name__ == "__main__":
    logging.disable()
    print(*rows(), sep="\n")
