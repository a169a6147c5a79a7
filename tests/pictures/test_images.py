"""Pictures of every kind that people have are read as the same colours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from musicot_mlx.errors import MusicotError
from musicot_mlx.pictures.images import frame_pixels, image_pixels, read_image

COLOURS = np.zeros((6, 8, 3), dtype=np.uint8)
COLOURS[:, :4] = (200, 30, 90)
COLOURS[:3, 4:] = (10, 240, 120)
GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def test_rgb_is_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), COLOURS)


def test_grey_is_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), np.repeat(GREY[..., None], 3, axis=2))


def test_16_bit_grey_is_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.tif")
    dark = np.full((4, 4), 200, np.uint16)  # within 8 bits, and still of 16
    Image.fromarray(dark).save(tmp_path / "dark.tif")
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_image(tmp_path / name)[..., 1], GREY)
    assert read_image(tmp_path / "dark.tif").max() == 1


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_float_grey(tmp_path: Path, scale: float) -> None:
    values = GREY.astype(np.float32) / 255 * scale
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.array_equal(read_image(tmp_path / "a.tif")[..., 0], GREY)


def test_what_is_no_number_is_black(tmp_path: Path) -> None:
    values = np.full((4, 4), 255, np.float32)
    values[0] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[:, 0, 0].tolist() == [0, 255, 255, 255]


def test_palette_and_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).quantize(8).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png").astype(int) - COLOURS).max() <= 2
    Image.fromarray(GREY > 99).save(tmp_path / "b.png")
    assert np.array_equal(read_image(tmp_path / "b.png")[..., 2], np.where(GREY > 99, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_is_on_white(tmp_path: Path, mode: str) -> None:
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[:, :2] = 0
    image = Image.fromarray(COLOURS).convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    image = image.quantize(8) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.shape == (6, 8, 3) and (read[:, :2] == 255).all()
    assert (read[:, 2:4, 1] < 250).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert read_image(tmp_path / "a.jpg").shape == (6, 8, 3)


def test_exif_turns_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn it clockwise
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(COLOURS, -1))


def test_an_animation_is_its_first_picture(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == 40).all()


def test_what_is_no_picture_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture at all")
    Image.fromarray(COLOURS.repeat(50, 0).repeat(50, 1)).save(tmp_path / "b.png")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    cases = {
        "none.png": "does not exist",
        ".": "is a folder",
        "a.png": "no picture that Pillow knows",
        "b.png": "can't read picture",
    }
    for name, words in cases.items():
        with pytest.raises(MusicotError, match=words) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("no decoder"), KeyError(7), TypeError("odd")])
def test_whatever_a_reader_of_pillow_raises_is_told(tmp_path, monkeypatch, error) -> None:
    """Its AVIF raises RuntimeError of a file that is damaged, others what their code comes to."""
    Image.fromarray(COLOURS).save(tmp_path / "a.png")

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "convert", broken)
    with pytest.raises(MusicotError, match="can't read picture .*a.png"):
        read_image(tmp_path / "a.png")


def test_a_picture_too_large_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    for most in (40, 20):  # Pillow warns beyond one limit and raises beyond twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(MusicotError, match=f"it has more than {most} pixels; scale it"):
            read_image(tmp_path / "a.png")


def test_pixels_lie_in_their_range() -> None:
    extremes = np.zeros((40, 30, 3), np.uint8)
    extremes[:20] = 255
    picture, film = image_pixels(extremes, 16), frame_pixels(extremes, 16, shortest_edge=16)
    twice = frame_pixels(extremes, 16, shortest_edge=16, twice=True)
    assert picture.shape == film.shape == twice.shape == (16, 16, 3)
    assert (picture.min(), picture.max()) == (-1, 1) == (film.min(), film.max())
    assert (twice.min(), twice.max()) == (-3, 1)


@pytest.mark.parametrize("shape", [(16000, 2), (1000, 3), (1, 1), (17, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_frame_however_long_is_seen_by_its_middle(shape: tuple[int, int], turned: bool) -> None:
    """Scaled as a whole, the first would take 1.6 GB at the sizes of ViViT."""
    frame = np.full((*shape, 3), 255, np.uint8)
    frame[: shape[0] // 3] = 0
    pixels = frame_pixels(frame.swapaxes(0, 1) if turned else frame, 16, shortest_edge=18)
    assert pixels.shape == (16, 16, 3) and (pixels == 1).all()
