"""Labelled images in files, dealt out to clients: MNIST and whatever comes in the same format."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.data.equal_split import Partition, equal_split, kept_of_labels, spread_holdout
from codex_ray.data.idx import Bytes, read_idx, read_npz
from codex_ray.data.image_features import ImageFeatures, Pixels
from codex_ray.data.in_memory import InMemory
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import SeedTree
from codex_ray.types import Component


class ImageFiles(Component):
    """Grey images and their labels, dealt out so that every client holds equally many.

    Images that no client holds are the test set: of each label the same part, evenly over the file,
    whatever the seed, which decides who holds which of the others. Relative paths start from the
    working directory; every process reads the files.
    """

    kind: Literal["image_files"] = "image_files"
    images: str = Field(
        description="The images: an IDX file such as t10k-images-idx3-ubyte.gz, packed or not, or "
        "an .npz file that holds images [n, rows, columns] and labels [n], both uint8."
    )
    labels: str | None = Field(
        None, description="The IDX file of their labels; an .npz file has its own."
    )
    features: ImageFeatures = Field(
        default=Pixels(), description="What a model sees of an image; nothing of it is learnt."
    )
    clients: int = Field(1000, ge=1, description="How many clients there are.")
    records_per_client: int = Field(8, ge=1, description="How many images each client holds.")
    partition: Partition = Field(
        "iid", description="Whether clients hold images of any label, or of one label each."
    )

    @model_validator(mode="after")
    def _labelled(self) -> ImageFiles:
        packed = Path(self.images).suffix == ".npz"
        if packed and self.labels is not None:
            raise ConfigError(
                f"data.labels: {self.images} brings its own labels: leave data.labels out"
            )
        if not packed and self.labels is None:
            raise ConfigError(
                f"data.labels: is missing: name the IDX file of the labels of {self.images}"
            )
        return self

    def open(self, public: SeedTree) -> FederatedDataset:
        """The clients of this seed, and the test set of all seeds.

        Raises:
            ConfigError: the features do not fit the images.
            DataError: a file is missing or cannot be used, images and labels are not equally
                many, or there are too few for so many clients.
        """
        images, labels = self._read()
        whole = labels.astype(np.int64)
        kept = kept_of_labels(
            whole, self.clients, self.records_per_client, partition=self.partition
        )
        held_out, pool = spread_holdout(whole, kept)
        rng = public.stream("data", self.kind, "clients").numpy()
        split = equal_split(whole, pool, self.records_per_client, partition=self.partition, rng=rng)
        features = self.features.of(images)
        return InMemory(
            [Records(features[mine], whole[mine]) for mine in split],
            Records(features[held_out], whole[held_out]),
        )

    def _read(self) -> tuple[Bytes, Bytes]:
        """Images [n, rows, columns] and labels [n]."""
        if self.labels is None:
            images, labels = read_npz(Path(self.images), field="data.images")
        else:
            images = read_idx(Path(self.images), axes=3, field="data.images")
            labels = read_idx(Path(self.labels), axes=1, field="data.labels")
        if len(images) != len(labels):
            raise DataError(
                f"data.images: {self.images} holds {len(images)} images, but there are "
                f"{len(labels)} labels: name files that belong together"
            )
        return images, labels
