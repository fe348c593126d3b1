"""What a run has in common on one device and on several: order, random numbers, losses, weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.distributed.several_devices import BATCH, DEVICES, EPOCHS, HANDED_OVER
from trainer.config import DataOptions
from trainer.data import loader
from trainer.data.dataset import Array
from trainer.engine.loop import batches

Runs = dict[str, Array]

PAIRS = [("1", "4"), ("1, shards", "4, shards")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, digits: Path, sharded_digits: Path) -> Runs:
    out = tmp_path_factory.mktemp("devices") / "found.npz"
    command = [sys.executable, "-m", "tests.distributed.several_devices"]
    done = subprocess.run(
        [*command, str(digits), str(sharded_digits), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("one", "several"), [*PAIRS, ("1, frozen", "4, frozen")])
def test_several_devices_give_the_losses_of_one(runs: Runs, one: str, several: str) -> None:
    np.testing.assert_allclose(runs[f"{several}: figures"], runs[f"{one}: figures"], rtol=1e-6)


@pytest.mark.parametrize(("one", "several"), PAIRS)
def test_each_takes_its_slice_of_the_steps_of_one(runs: Runs, one: str, several: str) -> None:
    """What fills a step up to a multiple of the devices is behind its examples."""
    given, expected = runs[f"{several}: given"], runs[f"{one}: given"]
    assert given.shape[:2] == (11 * EPOCHS, 96)
    np.testing.assert_array_equal(given[:, :BATCH], expected)


def test_the_steps_of_one_have_the_order_of_the_data(runs: Runs, digits: Path) -> None:
    train = loader.load(DataOptions(data=str(digits), seed=0)).train
    indices = np.concatenate([batches(train.order(0, epoch), BATCH, 1) for epoch in range(EPOCHS)])
    np.testing.assert_array_equal(runs["1: given"], train.examples[np.maximum(indices, ~indices)])


@pytest.mark.parametrize(("one", "several"), PAIRS)
def test_an_example_has_the_random_numbers_of_its_place_on_any_of_them(
    runs: Runs, one: str, several: str
) -> None:
    drawn = runs[f"{several}: drawn"][:, :BATCH]
    np.testing.assert_array_equal(drawn, runs[f"{one}: drawn"])
    assert len(np.unique(drawn)) > 0.99 * drawn.size


@pytest.mark.parametrize("name", ["4", "1 to 4", "4, shards", "4, frozen"])
def test_all_devices_end_with_equal_weights(runs: Runs, name: str) -> None:
    for number in range(4):
        copies = runs[f"{name}: weight {number}"]
        assert len(copies) == DEVICES
        assert (copies == copies[0]).all()


@pytest.mark.parametrize(("one", "several"), PAIRS)
def test_an_evaluation_has_every_example_once_and_the_same_answers_to_the_bit(
    runs: Runs, one: str, several: str
) -> None:
    said = runs[f"{several}: said"]
    assert said.shape == (300, 10)
    np.testing.assert_array_equal(said, runs[f"{one}: said"])


@pytest.mark.parametrize(("name", "alone"), [("1 to 4", "1"), ("4 to 1", "4")])
def test_a_run_goes_on_on_another_number_of_devices(runs: Runs, name: str, alone: str) -> None:
    np.testing.assert_allclose(runs[f"{name}: figures"], runs[f"{alone}: figures"], rtol=1e-6)
    left = 11 * HANDED_OVER[0] + HANDED_OVER[1]
    given = runs[f"{name}: given"][:, :BATCH]
    np.testing.assert_array_equal(given, runs[f"{alone}: given"][left:, :BATCH])


def test_a_run_goes_on_to_the_bit_on_as_many_devices(runs: Runs) -> None:
    np.testing.assert_array_equal(runs["4 to 4: figures"], runs["4: figures"])
    for number in range(4):
        name = f"weight {number}"
        np.testing.assert_array_equal(runs[f"4 to 4: {name}"], runs[f"4: {name}"])


def test_dropout_has_the_same_mask_for_each_devices_share(runs: Runs) -> None:
    dropped = runs["dropped"]
    assert 0 < (dropped == 0).sum() < dropped.size
    assert (dropped == dropped[0]).all()


def test_batch_normalisation_is_over_a_share_and_the_first_ones_averages_are_kept(
    runs: Runs,
) -> None:
    np.testing.assert_allclose(runs["normalised"].mean(axis=1), 0, atol=1e-6)
    assert len(np.unique(runs["averages"], axis=0)) == len(runs["averages"])
    np.testing.assert_array_equal(runs["saved"], runs["averages"][0])
