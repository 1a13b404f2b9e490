"""Streamed images against the same images in memory, and against themselves from another start or by other workers."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_corruption import EVERY
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from image_folder import make_image_folder
from one_epoch import one_epoch
from rethinkgen.data import streamed_source
from rethinkgen.data.batches import Batch, Blocks
from rethinkgen.data.corruption import (
    GaussianBlend,
    RandomLabels,
    ShuffledPixels,
    TrueLabels,
)
from rethinkgen.data.image_listing import list_folder
from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import ImageFolder
from rethinkgen.data.streamed_source import StreamedFolder
from rethinkgen.data.streaming import Request, View, crop_seeds, decoded, in_parts, telling_of_workers
from rethinkgen.errors import UnreadableImageError, WorkersFailedError
from rethinkgen.measure.predict import predict, recalibrated_batch_norm, slices
from rethinkgen.model.inception import Inception


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one size, which memory can hold too."""
    return make_image_folder(tmp_path_factory.mktemp("equal"), size=lambda rng: (24, 24))


@pytest.fixture(scope="module")
def various(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes."""
    return make_image_folder(tmp_path_factory.mktemp("various"))


def streamed(
    kind: type[CorruptedImages], root: Path, workers: int = 0, resize: int = 24, **data: Any
) -> CorruptedImages:
    source = StreamedFolder(root, resize=resize, num_workers=workers)
    datamodule = kind(source, **{"batch_size": 5, "crop": 20, "seed": 3, "order_seed": 4, **data})
    datamodule.setup()
    return datamodule


def in_memory(kind: type[CorruptedImages], root: Path, **data: Any) -> CorruptedImages:
    source = ImageFolder(root, num_workers=1)
    datamodule = kind(source, **{"batch_size": 5, "crop": 20, "seed": 3, "order_seed": 4, **data})
    datamodule.setup()
    return datamodule


def batches(
    datamodule: CorruptedImages, epoch: int = 0, position: int = 0, per_block: int = 2, rank: int = 0, size: int = 1
) -> list[Batch]:
    """Return the batches of an epoch from ``position`` on."""
    timetable = datamodule.timetable
    blocks = Blocks(
        timetable,
        datamodule.order_seed,
        lambda: timetable.first(epoch) + position,
        lambda step: step + per_block,
        rank,
        size,
        clock=lambda: 0.0,
    )
    return [batch for block in blocks for batch in datamodule.batches(block)]


def all_inputs(datamodule: CorruptedImages, name: Any) -> torch.Tensor:
    inputs = datamodule.splits[name].inputs
    return torch.cat(list(in_parts(inputs, slices(len(inputs), 7))))


# As in memory


@pytest.mark.parametrize(("kind", "arguments"), EVERY)
def test_every_corruption_gives_what_it_gives_in_memory(kind: Any, arguments: dict[str, Any], equal: Path) -> None:
    options = {**arguments, "preprocessing": "none", "validation": 0.25, "num_train": 21}
    ours, theirs = streamed(kind, equal, **options), in_memory(kind, equal, **options)
    assert ours.image_shape == theirs.image_shape
    assert ours.class_names == theirs.class_names
    assert ours.noise == theirs.noise
    assert list(ours.splits) == list(theirs.splits) == ["train", "validation", "test"]
    for name in theirs.splits:
        assert torch.equal(all_inputs(ours, name), all_inputs(theirs, name)), "to the bit"
        for part in ("labels", "original_labels", "is_drawn", "is_corrupted", "index"):
            assert torch.equal(getattr(ours.splits[name], part), getattr(theirs.splits[name], part))
    for left, right in zip(batches(ours), batches(theirs), strict=True):
        assert torch.equal(left.images, right.images)
        assert torch.equal(left.labels, right.labels)
        assert left.global_size == right.global_size


@pytest.mark.parametrize("kind", [TrueLabels, ShuffledPixels])
@pytest.mark.parametrize("preprocessing", ["whitening", "normalization", "signed"])
def test_augmented_batches_are_those_in_memory(kind: Any, preprocessing: str, equal: Path) -> None:
    # Whitening and the mean of the contrast are sums, whose rounding depends on how many images are in a tensor.
    options = {"flip": True, "rotation": 20.0, "color_jitter": True, "preprocessing": preprocessing}
    ours, theirs = streamed(kind, equal, **options), in_memory(kind, equal, **options)
    for epoch in (0, 1):
        for left, right in zip(batches(ours, epoch), batches(theirs, epoch), strict=True):
            torch.testing.assert_close(left.images, right.images, rtol=0, atol=1e-5)
            assert torch.equal(left.labels, right.labels)


def test_predictions_and_recalibration_read_a_stream(equal: Path) -> None:
    ours, theirs = streamed(RandomLabels, equal), in_memory(RandomLabels, equal)
    torch.manual_seed(0)
    network = Inception(image_shape=(3, 20, 20), num_classes=4)
    labels = ours.splits["train"].labels
    for recalibrated in (False, True):
        seen = []
        for datamodule in (ours, theirs):
            inputs = datamodule.splits["train"].inputs
            if recalibrated:
                with recalibrated_batch_norm(network, inputs, batch_size=6):
                    seen.append(predict(network, inputs, labels))
            else:
                seen.append(predict(network, inputs, labels))
        torch.testing.assert_close(seen[0].losses, seen[1].losses)
        assert torch.equal(seen[0].classes, seen[1].classes)


def test_streamed_images_are_resized_by_their_source_alone(various: Path) -> None:
    source = StreamedFolder(various, resize=24, num_workers=0)
    with pytest.raises(ValueError, match=r"data\.resize=14: streamed images are resized by data\.source\.resize"):
        TrueLabels(source, batch_size=5, crop=20, resize=14).setup()


def test_statistics_are_of_a_sample_where_there_are_many(equal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = in_memory(TrueLabels, equal, crop=24)
    torch.testing.assert_close(streamed(TrueLabels, equal, crop=24).statistics, whole.statistics)
    monkeypatch.setattr("rethinkgen.data.module.SAMPLE", 3)
    examples = ImageFolder(equal, num_workers=1).load().train
    pixels = examples.images[np.argsort(examples.keys)[:3]] / 255
    found = streamed(TrueLabels, equal, crop=24).statistics
    np.testing.assert_allclose(found.mean.flatten(), pixels.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(found.std.flatten(), pixels.std((0, 2, 3)), atol=1e-6)


# The view


def test_the_centre_is_the_middle_of_the_image_resized() -> None:
    image = torch.arange(40 * 60, dtype=torch.float64).reshape(40, 60).div(40 * 60 / 255).to(torch.uint8)
    image = image.expand(3, 40, 60).contiguous()
    view = View(resize=20, size=(10, 10))(image, None)
    assert view.shape == (3, 10, 10)
    # Half the size: means of 2x2 pixels would be rows 10 to 29 and columns 20 to 39.
    expected = image[:, 10:30, 20:40].float().unflatten(2, (10, 2)).unflatten(1, (10, 2)).mean((2, 4))
    torch.testing.assert_close(view.float(), expected, rtol=0, atol=3)
    assert torch.equal(View(resize=40, size=(40, 60))(image, None), image), "nothing to resize"


def test_random_views_go_by_their_seed_alone_and_leave_torch_s_generator_as_it_was() -> None:
    image = torch.randint(256, (3, 40, 60), dtype=torch.uint8)
    view = View(resize=20, size=(10, 10))
    before = torch.get_rng_state()
    first, again, other = view(image, 5), view(image, 5), view(image, 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (3, 10, 10)


def test_images_of_all_sizes_and_modes_become_three_channels(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path, num_classes=2, num_train=4, num_test=1)
    folder = root / "train" / "class_0"
    grey = Image.fromarray(np.arange(24 * 24, dtype=np.uint8).reshape(24, 24))
    grey.save(folder / "grey.png")
    grey.convert("RGB").quantize(16).save(folder / "palette.png")
    grey.convert("RGBA").save(folder / "transparent.png")
    data = streamed(TrueLabels, root, preprocessing="none", batch_size=2)
    train = data.splits["train"].inputs
    names = [Path(os.fsdecode(name)).stem for name in train.reader.names]  # type: ignore[union-attr]
    (image,) = in_parts(train, [slice(names.index("grey"), names.index("grey") + 1)])
    np.testing.assert_array_equal(image[0, 1] * 255, np.asarray(grey)[2:22, 2:22])
    assert all_inputs(data, "train").shape == (len(names), 3, 20, 20)


# Order


RANDOM = {"random_crop": True, "flip": True, "color_jitter": True, "preprocessing": "none"}


def assert_equal_batches(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(workers: int, various: Path) -> None:
    alone = streamed(GaussianBlend, various, 0, strength=0.5, **RANDOM)
    helped = streamed(GaussianBlend, various, workers, strength=0.5, **RANDOM)
    for epoch in (0, 1):
        assert_equal_batches(batches(alone, epoch), batches(helped, epoch))
    torch.manual_seed(7)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    batches(helped, 5)  # a new start of the workers
    assert torch.equal(torch.rand(3), drawn), "dropout must not depend on where a stream began"
    assert torch.equal(all_inputs(alone, "test"), all_inputs(helped, "test"))
    assert len(multiprocessing.active_children()) == workers
    helped.teardown("fit")
    assert not multiprocessing.active_children()


def test_a_stream_goes_on_from_any_position_of_any_epoch(various: Path) -> None:
    data = streamed(RandomLabels, various, 2, **RANDOM)
    undisturbed = [batches(data, epoch) for epoch in (0, 1)]
    assert len(undisturbed[0]) == 7
    for epoch, position in ((1, 3), (0, 6), (0, 0), (1, 0)):
        resumed = streamed(RandomLabels, various, 1, **RANDOM)
        assert_equal_batches(batches(resumed, epoch, position, per_block=3), undisturbed[epoch][position:])
        resumed.teardown("fit")
    data.teardown("fit")


def changing(epoch: int, step: int) -> int:
    return (3, 8, 5)[step % 3] + epoch


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_change_are_those_in_memory_and_go_on_from_any_position(workers: int, equal: Path) -> None:
    memory = in_memory(RandomLabels, equal, preprocessing="none", batch_size=changing)
    data = streamed(RandomLabels, equal, workers, preprocessing="none", batch_size=changing)
    for epoch in (0, 1, 2):
        expected = batches(memory, epoch)
        assert [len(batch.labels) for batch in expected] == memory.timetable.sizes(epoch)
        assert len(set(memory.timetable.sizes(epoch))) > 1
        assert_equal_batches(batches(data, epoch), expected)
        resumed = streamed(RandomLabels, equal, workers, preprocessing="none", batch_size=changing)
        assert_equal_batches(batches(resumed, epoch, 1), expected[1:])
        resumed.teardown("fit")
    data.teardown("fit")


def test_epochs_differ_in_order_and_crop_and_the_crop_is_the_example_s(various: Path) -> None:
    data = streamed(
        TrueLabels, various, 0, resize=40, random_crop=True, preprocessing="none", num_train=9, batch_size=3
    )
    reader = data.splits["train"].inputs.reader  # type: ignore[union-attr]
    seen = []
    for epoch in (0, 1):
        seeds = crop_seeds(4, epoch, 9)
        (block,) = one_epoch(9, 9, 4, epoch)
        images = torch.cat([batch.images for batch in batches(data, epoch)])
        for position, image in zip(block.indices.tolist(), images, strict=True):
            with Image.open(os.path.join(reader.root, os.fsdecode(reader.names[position]))) as file:
                whole = torch.from_numpy(np.array(file)).permute(2, 0, 1)
            expected = View(40, (20, 20))(whole, int(seeds[position]))
            assert torch.equal(image, expected / 255)
        seen.append(images[block.indices.argsort()])
    assert not (seen[0] == seen[1]).all((1, 2, 3)).any()


def test_ranks_interleave(various: Path) -> None:
    whole = batches(streamed(TrueLabels, various, **RANDOM))
    for rank in (0, 1):
        data = streamed(TrueLabels, various, **RANDOM)
        data._open_stream(rank, 2)
        for share, batch in zip(batches(data, rank=rank, size=2), whole, strict=True):
            torch.testing.assert_close(share.images, batch.images[rank::2], rtol=0, atol=1e-6)
            assert torch.equal(share.labels, batch.labels[rank::2])


def test_batches_are_decoded_ahead_over_the_end_of_an_epoch(various: Path) -> None:
    data = streamed(TrueLabels, various, 1)
    batches(data)
    stream = data._stream
    assert stream is not None
    running = stream._batches
    batches(data, epoch=1)
    assert stream._batches is running
    data.teardown("fit")


# What is wrong with files


def test_a_broken_image_is_named_with_what_to_do(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path, num_classes=2)
    (root / "train" / "class_1" / "3.png").write_bytes(b"no image")
    for workers in (0, 1):
        data = streamed(TrueLabels, root, workers, batch_size=16)
        with pytest.raises(UnreadableImageError, match=r"train/class_1/3\.png cannot be read .* Put the right file"):
            batches(data)
        data.on_exception(RuntimeError())


def test_empty_files_and_other_folders_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        StreamedFolder(tmp_path / "nowhere").prepare()
    assert StreamedFolder(tmp_path / "nowhere").fingerprint() is None
    root = make_image_folder(tmp_path, num_classes=2)
    (root / "train" / "class_1" / "3.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 file empty .*: train/class_1/3\.png"):
        StreamedFolder(root).prepare()


@pytest.mark.parametrize("crop", ["auto", None, 25])
def test_a_crop_that_does_not_suit_is_refused(crop: Any, equal: Path) -> None:
    with pytest.raises(ValueError, match=rf"data\.crop={crop!r}: .* data\.source\.resize=24"):
        streamed(TrueLabels, equal, crop=crop)


@pytest.mark.parametrize(("key", "value"), [("resize", 0), ("resize", "342"), ("num_workers", -1)])
def test_bad_values_are_named_with_their_key(key: str, value: Any, equal: Path) -> None:
    with pytest.raises(ValueError, match=rf"data\.source\.{key}={value!r}"):
        StreamedFolder(equal, **{key: value})


# The listing


def test_the_listing_is_made_once_and_again_when_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_image_folder(tmp_path)
    first = StreamedFolder(root).load()
    in_memory = ImageFolder(root, num_workers=1)
    assert StreamedFolder(root).fingerprint() == in_memory.fingerprint()
    with monkeypatch.context() as patch:
        patch.setattr(streamed_source, "list_folder", None)
        again = StreamedFolder(root).load()
        assert StreamedFolder(root).fingerprint() == in_memory.fingerprint()
    assert again.class_names == first.class_names == tuple(f"class_{label}" for label in range(4))
    for one, other in ((first.train, again.train), (first.test, again.test)):
        for part in ("names", "labels", "keys"):
            assert np.array_equal(getattr(one, part), getattr(other, part))
    assert first.train.names[9] == b"train/class_1/1.png"

    (root / "train" / "class_1" / "1.png").unlink()
    assert len(StreamedFolder(root).load().train) == 31
    assert StreamedFolder(root).fingerprint() == in_memory.fingerprint()


def test_a_listing_that_may_change_within_a_tick_is_not_kept(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path)
    os.utime(root / "train" / "class_0")
    StreamedFolder(root).prepare()
    assert not list(root.glob(".rethinkgen-listing*"))


def test_a_damaged_listing_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_image_folder(tmp_path)
    StreamedFolder(root).prepare()
    (listing,) = root.glob(".rethinkgen-listing*")
    listing.write_bytes(listing.read_bytes()[:500])
    assert len(StreamedFolder(root).load().train) == 32
    assert "is damaged" in caplog.text


def test_where_the_root_cannot_be_written_the_listing_is_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_image_folder(tmp_path / "images")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # As root, who runs the tests in a container, may write everywhere: a folder stands in the file's place.
    (root / ".rethinkgen-listing.npz").mkdir()
    StreamedFolder(root).prepare()
    assert len(list((tmp_path / "cache" / "rethinkgen").glob("listing-*.npz"))) == 1
    monkeypatch.setattr(streamed_source, "list_folder", None)
    assert len(StreamedFolder(root).load().train) == 32


def test_the_listing_of_the_test_s_folder_is_what_is_there(various: Path) -> None:
    listing = list_folder(various)
    names = [os.fsdecode(name) for name in StreamedFolder(various).load().test.names]
    assert names == [file.name for file in listing.test]
    assert next(islice(names, 0, 1)) == "val/class_0/0.png"


# How workers hand over images


def test_nothing_goes_through_dev_shm(various: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device")

    # Forked workers have this too. What goes wrong in the thread that sends is heard by nobody, so it must not be used.
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", full)
    alone = streamed(GaussianBlend, various, 0, strength=0.5, **RANDOM)
    helped = streamed(GaussianBlend, various, 2, strength=0.5, **RANDOM)
    assert_equal_batches(batches(alone), batches(helped))
    helped.teardown("fit")


def test_what_is_handed_over_can_be_written_to_and_outlives_its_worker(various: Path) -> None:
    data = streamed(GaussianBlend, various, 1, strength=0.5)
    reader = data.splits["train"].inputs.reader  # type: ignore[union-attr]
    request = Request(np.arange(3), None)
    expected = reader[request]
    (found,) = decoded(reader, iter([request]), 1, torch.device("cpu"))
    assert not multiprocessing.active_children()
    assert torch.equal(found.images, expected.images)
    assert [drawn.dtype for drawn in found.pattern] == [drawn.dtype for drawn in expected.pattern]
    assert torch.equal(found.pattern[0], expected.pattern[0])
    found.images[:] = 7
    assert (found.images == 7).all()


def test_no_descriptor_is_left_open(various: Path) -> None:
    counts = []
    for _ in range(3):
        data = streamed(TrueLabels, various, 1, **RANDOM)
        for epoch in (0, 3):
            batches(data, epoch)
        data.teardown("fit")
        gc.collect()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[2] <= counts[1], "28 batches a turn"


class Failing:
    """Stands where a ``Reader`` stands, and fails in its worker."""

    def __init__(self, fail: Any) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 1

    def __getitem__(self, request: Any) -> Any:
        return self.fail()


def out_of_memory() -> None:
    raise MemoryError


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def left() -> None:
    os._exit(3)


def a_mistake() -> None:
    raise KeyError("of ours")


def take_one(reader: Any) -> None:
    with telling_of_workers():
        next(decoded(reader, iter([0]), 1, torch.device("cpu")))


@pytest.mark.parametrize("fail", [out_of_memory, killed, left])
def test_a_worker_that_fails_ends_the_run_with_what_to_do(fail: Any) -> None:
    with pytest.raises(WorkersFailedError, match=r"A process that decodes images failed .*data\.source\.num_workers=1"):
        take_one(Failing(fail))


def test_a_worker_that_is_killed_while_it_is_ended_adds_no_second_message(monkeypatch: pytest.MonkeyPatch) -> None:
    end = _MultiProcessingDataLoaderIter._mark_worker_as_unavailable

    def kill_first(loader: Any, worker: int, shutdown: bool = False) -> None:
        pid = loader._workers[worker].pid
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # PyTorch hears of it now, or at the next line
        end(loader, worker, shutdown)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_mark_worker_as_unavailable", kill_first)
    with pytest.raises(UnreadableImageError, match="one word"):
        take_one(Failing(lambda: "one word"))
    gc.collect()  # what is raised in a ``__del__`` is an error here


def test_a_mistake_of_ours_in_a_worker_is_told_as_it_is() -> None:
    with pytest.raises(KeyError, match="of ours"):
        take_one(Failing(a_mistake))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # PyTorch's loader, half made
def test_workers_that_cannot_be_started_are_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_semaphore(*arguments: Any, **keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(multiprocessing.context.BaseContext, "Queue", no_semaphore)
    with pytest.raises(WorkersFailedError, match=r"can be started .*No space.*num_workers=0.*--shm-size"):
        take_one(Failing(a_mistake))


def test_sixteen_bits_are_refused_where_they_are_streamed_too(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path, num_classes=2)
    Image.fromarray(np.full((24, 24), 40_000, np.uint16)).save(root / "train" / "class_1" / "3.png")
    data = streamed(TrueLabels, root, 0, batch_size=16)
    with pytest.raises(UnreadableImageError, match=r"train/class_1/3\.png cannot be read .*8 bits a channel"):
        batches(data)
