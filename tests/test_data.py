import errno
import io
import json
import os
import tarfile

import numpy as np
import PIL.Image
import pytest

from enorm_jax import cifar10, data, imagenet
from enorm_jax.prepared import DataNotFoundError, find_prepared


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


def make_archive(folder, rng):
    """The official archive in small: 3 images a file, channels first."""
    images = rng.integers(0, 256, (18, 3, 32, 32), dtype=np.uint8)
    labels = rng.integers(0, 10, 18, dtype=np.uint8)
    path = folder / cifar10.CIFAR10_ARCHIVE
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    with tarfile.open(path, "w:gz") as tar:
        for i, name in enumerate(names):
            part = slice(3 * i, 3 * i + 3)
            raw = b"".join(
                bytes([label]) + image.tobytes()
                for label, image in zip(labels[part], images[part], strict=True)
            )
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(raw)
            tar.addfile(member, io.BytesIO(raw))
    return path, images.transpose(0, 2, 3, 1), labels


def test_digits_are_real_and_split_without_overlap():
    digits = data.load("digits")
    assert digits.train_images.dtype == np.uint8
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert set(digits.test_labels) == set(range(10))
    inputs = np.asarray(digits.standardization(digits.train_images))
    np.testing.assert_allclose([inputs.mean(), inputs.std()], [0, 1], atol=0.01)


def test_standardization_follows_the_equation(rng):
    pixels = rng.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    std = data.CIFAR10_STANDARDIZATION
    want = (pixels / 255 - np.array(std.mean)) / np.array(std.std)
    np.testing.assert_allclose(std(pixels), want, rtol=1e-5, atol=1e-6)


def test_the_official_archive_is_parsed(tmp_path, rng):
    path, images, labels = make_archive(tmp_path, rng)
    train_images, train_labels, test_images, test_labels = cifar10.parse_archive(path)
    np.testing.assert_array_equal(train_images, images[:15])
    np.testing.assert_array_equal(train_labels, labels[:15])
    np.testing.assert_array_equal(test_images, images[15:])
    np.testing.assert_array_equal(test_labels, labels[15:])


def test_an_archive_with_another_checksum_is_refused(tmp_path, rng):
    make_archive(tmp_path, rng)
    with pytest.raises(DataNotFoundError, match="is damaged"):
        data.load("cifar10", tmp_path)


def test_decoded_arrays_are_cached(tmp_path, rng, monkeypatch):
    path, *_ = make_archive(tmp_path, rng)
    monkeypatch.setattr(cifar10, "_read_archive", lambda folder: cifar10.parse_archive(path))
    first = data.load("cifar10", tmp_path)
    monkeypatch.setattr(cifar10, "_read_archive", None)
    second = data.load("cifar10", tmp_path)
    np.testing.assert_array_equal(data.load("cifar10").test_labels, second.test_labels)
    np.testing.assert_array_equal(first.train_images, second.train_images)
    assert second.test_images.dtype == np.uint8
    assert not list((tmp_path / "cache" / "enorm_jax").glob("*.tmp"))


def test_a_damaged_cache_is_decoded_again_and_an_unwritable_one_done_without(
    tmp_path, rng, monkeypatch, caplog
):
    path, images, _ = make_archive(tmp_path, rng)
    monkeypatch.setattr(cifar10, "_read_archive", lambda folder: cifar10.parse_archive(path))
    cached = tmp_path / "cache" / "enorm_jax" / "cifar10-archive.npz"
    data.load("cifar10", tmp_path)
    cached.write_bytes(cached.read_bytes()[:1000])
    np.testing.assert_array_equal(data.load("cifar10", tmp_path).test_images, images[15:])
    assert "decoding again" in caplog.text
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    np.testing.assert_array_equal(data.load("cifar10", tmp_path).test_images, images[15:])
    assert "cannot cache" in caplog.text


def test_without_data_and_network_one_line_names_both_ways_out(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(DataNotFoundError, match=r"--data-dir.*--dataset digits"):
        data.load("cifar10")


def test_a_directory_without_cifar10_is_named(tmp_path):
    with pytest.raises(DataNotFoundError, match=str(tmp_path)):
        data.load("cifar10", tmp_path)


def encoded(image, kind="png"):
    content = io.BytesIO()
    PIL.Image.fromarray(image).save(content, kind)
    return content.getvalue()


def prepare_imagenet(folder, name, images, labels):
    """What TFDS leaves of an ImageNet of seven images: records, features, splits."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    kind, place = name.split("/")[0], folder / name / "0.1.0"
    place.mkdir(parents=True)
    splits = {"train": range(5), "validation": range(5, 7)}
    for split, members in splits.items():
        writer = ArrayRecordWriter(
            str(place / f"{kind}-{split}.array_record-00000-of-00001"), "group_size:1"
        )
        for index in members:
            example = tf_example_pb2.Example()
            feature = example.features.feature
            feature["image"].bytes_list.value.append(images[index])
            feature["label"].int64_list.value.append(int(labels[index]))
            writer.write(example.SerializeToString())
        writer.close()
    module = "tensorflow_datasets.core.features"
    features = {
        "image": {
            "pythonClassName": f"{module}.image_feature.Image",
            "image": {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
        },
        "label": {
            "pythonClassName": f"{module}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "1000"},
        },
    }
    tree = {
        "pythonClassName": f"{module}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    info = {
        "name": kind, "version": "0.1.0", "fileFormat": "array_record",
        "moduleName": f"tensorflow_datasets.image_classification.{kind}",
        "splits": [
            {"name": split, "numBytes": "1", "shardLengths": [str(len(members))],
             "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}
            for split, members in splits.items()
        ],
    }  # fmt: skip
    (place / "features.json").write_text(json.dumps(tree))
    (place / "dataset_info.json").write_text(json.dumps(info))


@pytest.fixture
def seven(rng):
    """Seven images of 16 pixels, and labels."""
    images = rng.integers(0, 256, (7, 16, 16, 3), dtype=np.uint8)
    return images, rng.integers(0, 1000, 7)


def test_resized_imagenet_is_read_once_and_mapped_afterwards(tmp_path, seven, monkeypatch):
    images, labels = seven
    prepare_imagenet(tmp_path, "imagenet_resized/16x16", [encoded(i) for i in images], labels)
    for _ in range(2):
        found = data.load("imagenet16", tmp_path)
        np.testing.assert_array_equal(found.train_images, images[:5])
        np.testing.assert_array_equal(found.train_labels, labels[:5])
        np.testing.assert_array_equal(found.test_images, images[5:])
        np.testing.assert_array_equal(found.test_labels, labels[5:])
        assert found.classes == 1000
        monkeypatch.setattr(imagenet, "examples", None)  # not asked again
    assert isinstance(found.train_images, np.memmap)
    assert not list((tmp_path / "cache" / "enorm_jax").glob("*.tmp"))


def test_of_full_size_imagenet_the_middle_is_read_at_256_pixels(tmp_path):
    """Columns of equal colour: what is left of an image says where it was cut, and how scaled."""
    ramp = np.arange(300) * 255 / 299
    wide = np.broadcast_to(ramp[None, :, None], (100, 300, 3)).astype(np.uint8)
    grey = np.full((700, 500), 77, np.uint8)
    files = [encoded(wide, "jpeg")] * 3 + [encoded(grey, "jpeg")] * 4
    prepare_imagenet(tmp_path, "imagenet2012", files, range(7))
    found = data.load("imagenet224", tmp_path)
    assert found.train_images.shape == (5, 256, 256, 3)
    assert found.test_images.shape == (2, 256, 256, 3)
    assert found.train_labels.tolist() == [0, 1, 2, 3, 4]
    middle = np.interp((np.arange(256) + 0.5) * 100 / 256 - 0.5 + 100, np.arange(300), ramp)
    np.testing.assert_allclose(found.train_images[2, 128, :, 0], middle, atol=4)
    np.testing.assert_allclose(found.train_images[3], 77, atol=1)


def full(descriptor, offset, length):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fault", ["damaged", "full"])
def test_of_a_decoding_that_fails_nothing_is_left(tmp_path, seven, monkeypatch, fault):
    images, labels = seven
    files = [encoded(image) for image in images]
    spoilt = [*files[:6], files[6][:50]] if fault == "damaged" else files
    prepare_imagenet(tmp_path / fault, "imagenet_resized/16x16", spoilt, labels)
    cache = tmp_path / "cache" / "enorm_jax"
    with monkeypatch.context() as patch:
        if fault == "full":
            patch.setattr(os, "posix_fallocate", full)
        line = {"damaged": "image 1 of validation .* again", "full": "No space .* XDG_CACHE_HOME"}
        with pytest.raises(OSError, match=line[fault]):
            data.load("imagenet16", tmp_path / fault)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    prepare_imagenet(tmp_path, "imagenet_resized/16x16", files, labels)
    assert len(data.load("imagenet16", tmp_path).train_labels) == 5


def test_a_missing_split_is_named_before_anything_is_decoded(tmp_path, seven, monkeypatch):
    images, labels = seven
    prepare_imagenet(tmp_path, "imagenet2012", [encoded(image) for image in images], labels)
    (info,) = tmp_path.rglob("dataset_info.json")
    known = json.loads(info.read_text())
    info.write_text(json.dumps(known | {"splits": known["splits"][:1]}))
    monkeypatch.setattr(imagenet, "_square", None)
    with pytest.raises(DataNotFoundError, match="no split 'validation': let TFDS prepare all"):
        data.load("imagenet224", tmp_path)


def test_without_imagenet_one_line_says_how_to_prepare_it(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"tfds build imagenet_resized/64x64 .*--data-dir"):
        data.load("imagenet64", tmp_path)
    with pytest.raises(DataNotFoundError, match=r"TFDS_DATA_DIR or ~/tensorflow_datasets"):
        data.load("imagenet32")
    with pytest.raises(DataNotFoundError, match=r"tfds build imagenet2012 "):
        data.load("imagenet224", tmp_path)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"'mnist'.*cifar10, digits, imagenet16"):
        data.load("mnist")


def test_the_real_cifar10_is_whole(cifar10_dir, monkeypatch):
    monkeypatch.undo()  # the user's own cache: decoding takes half a minute
    cifar = data.load("cifar10", cifar10_dir)
    assert cifar.train_images.shape == (50_000, 32, 32, 3)
    assert cifar.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(cifar.train_labels).tolist() == [5000] * 10
    assert np.bincount(cifar.test_labels).tolist() == [1000] * 10
    means, stds = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    for channel, (mean, std) in enumerate(zip(means, stds, strict=True)):
        counts = np.bincount(cifar.train_images[..., channel].ravel(), minlength=256)
        value, share = np.arange(256) / 255, counts / counts.sum()
        found = value @ share
        np.testing.assert_allclose(found, mean, atol=1e-4)
        np.testing.assert_allclose(np.sqrt((value - found) ** 2 @ share), std, atol=1e-4)


def test_the_newest_version_counts_by_its_numbers(tmp_path):
    for version in ("3.0.2", "10.0.0", "9.1.0"):
        (tmp_path / "cifar10" / version).mkdir(parents=True)
        (tmp_path / "cifar10" / version / "dataset_info.json").touch()
        (tmp_path / "cifar10" / version / "cifar10-test.array_record-00000-of-00001").touch()
    assert find_prepared("cifar10", tmp_path).name == "10.0.0"
