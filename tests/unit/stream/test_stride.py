"""Shards of one constant layout, seen as tables; anything irregular must not be taken for one."""

import io
import tarfile

import numpy as np
import pytest

from streamtrain.stream.columns.stride import array_column, fixed_layout, number_column


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def tar(samples: list[tuple[str, dict[str, bytes]]], kind: int = tarfile.USTAR_FORMAT) -> np.ndarray:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for key, members in samples:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return np.frombuffer(stream.getvalue(), np.uint8)


IMAGES = np.random.default_rng(0).integers(0, 256, (30, 5, 7), np.uint8)
LABELS = np.arange(30) % 10


def regular() -> list[tuple[str, dict[str, bytes]]]:
    return [
        (f"part/{n:04d}", {"image.npy": npy(IMAGES[n]), "label.cls": b"%02d" % LABELS[n]}) for n in range(len(IMAGES))
    ]


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_regular_shard_is_a_table(kind: int) -> None:
    layout = fixed_layout(tar(regular(), kind), 30)
    assert layout is not None and layout.key(29) == "part/0029"
    image, label = layout.members
    np.testing.assert_array_equal(array_column(layout, image), IMAGES)
    np.testing.assert_array_equal(number_column(layout, label), LABELS)


def test_a_single_sample() -> None:
    assert fixed_layout(tar(regular()[:1]), 1) is not None


def changed(n: int, key: str | None = None, **members: bytes) -> np.ndarray:
    samples = regular()
    old_key, old = samples[n]
    samples[n] = (key or old_key, {**old, **{name.replace("_", "."): data for name, data in members.items()}})
    return tar(samples)


@pytest.mark.parametrize(
    "data",
    [
        changed(29, label_cls=b"123"),
        changed(17, key="part/0017x"),
        changed(17, key="par/t0017"),
        changed(17, key="part/0.17"),
        changed(17, extra_txt=b"more"),
        tar(regular()[:29]),
        tar([*regular(), *regular()[:1]]),
        tar([(key, dict(reversed(m.items())) if key.endswith("7") else m) for key, m in regular()]),
    ],
    ids=["size", "key length", "folder", "dot", "member", "too few", "too many", "member order"],
)
def test_irregular_shard_is_not(data: np.ndarray) -> None:
    assert fixed_layout(data, 30) is None


def test_interleaved_members_are_not_taken() -> None:
    samples = regular()
    image_17, image_18 = samples[17][1], samples[18][1]
    split = [
        (samples[17][0], {"image.npy": image_17["image.npy"]}),
        (samples[18][0], {"label.cls": image_18["label.cls"]}),
    ]
    assert fixed_layout(tar([*samples[:17], *split, *samples[18:]]), 30) is None


def test_arrays_of_another_dtype_are_no_column() -> None:
    other = IMAGES[5].view(np.int8)
    layout = fixed_layout(changed(5, image_npy=npy(other)), 30)
    assert layout is not None and array_column(layout, layout.members[0]) is None


def test_numbers_that_are_not_digits_are_no_column() -> None:
    layout = fixed_layout(changed(5, label_cls=b"-3"), 30)
    assert layout is not None and number_column(layout, layout.members[1]) is None


def test_pickled_arrays_are_no_column() -> None:
    data = npy(np.array([{"a": 1}], object))
    layout = fixed_layout(tar([("0", {"x.npy": data}), ("1", {"x.npy": data})]), 2)
    assert layout is not None and array_column(layout, layout.members[0]) is None
