"""Pictures: files to 8-bit RGB, and RGB to the pixels of ViT and ViViT.

Held against transformers' ViTImageProcessor and VivitImageProcessor.
"""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from musicot_mlx.errors import MusicotError

_PAPER = (255, 255, 255)  # behind what is transparent
_LONGEST = 16  # times as long as it is wide, a frame is scaled as a whole


def read_image(path: str | Path) -> np.ndarray:
    """A picture as uint8 (height, width, 3): turned as its EXIF tag says, grey and palettes as RGB,
    what is transparent on white, 16 bits as 8, of an animation the first picture.

    Raises MusicotError for a missing file and for what Pillow can't read.
    """
    path = Path(path)
    if not path.is_file():
        raise MusicotError(f"picture {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MusicotError(
            f"picture {path} is too large to be read, it has more than {Image.MAX_IMAGE_PIXELS:,} "
            "pixels; scale it"
        ) from error
    except Exception as error:  # of a broken file each of Pillow's readers raises its own
        why = "no picture that Pillow knows" if "cannot identify" in str(error) else str(error)
        raise MusicotError(f"can't read picture {path} ({why}); pass a PNG or JPEG") from error


def _rgb(image: Image.Image) -> np.ndarray:
    """Any mode of Pillow as uint8 (height, width, 3)."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64))
        deep = image.mode.startswith("I;16") or values.max(initial=0) > 255
        scale = 65535 if deep else 1 if image.mode == "F" and values.max(initial=0) <= 1 else 255
        grey = np.rint(np.clip(values / scale, 0, 1) * 255).astype(np.uint8)  # not cut off at 255
        return np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (*_PAPER, 255))
        image = Image.alpha_composite(paper, image)
    return np.asarray(image.convert("RGB"))


def image_pixels(image: np.ndarray, size: int = 224) -> np.ndarray:
    """A picture uint8 (height, width, 3) as ViT takes it, float32 (size, size, 3) in -1..1: both
    sides scaled to `size`, whatever they were.
    """
    scaled = _resized(image, size, size).astype(np.float32) / np.float32(255)
    return (scaled - np.float32(0.5)) / np.float32(0.5)


def frame_pixels(
    frame: np.ndarray, size: int = 224, *, shortest_edge: int = 256, twice: bool = False
) -> np.ndarray:
    """A frame of a film uint8 (height, width, 3) as ViViT takes it, float32 (size, size, 3): its
    shorter side scaled to `shortest_edge` (`size` at least), the middle cut out, -1..1.

    twice: normalised a second time, to -3..1, as google/vivit-b-16x2-kinetics400's processor does
    with shortest_edge 224, which MuMu-LLaMA with MusicGen small was trained on.
    """
    frame = _middle(frame)
    height, width = frame.shape[:2]
    short, long = max(size, shortest_edge), max(height, width)
    long = int(max(size, shortest_edge) * long / min(height, width))
    height, width = (long, short) if height > width else (short, long)
    top, left = (height - size) // 2, (width - size) // 2
    middle = _resized(frame, height, width)[top : top + size, left : left + size]
    pixels = middle.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1)
    return (pixels - np.float32(0.5)) / np.float32(0.5) if twice else pixels


def _middle(frame: np.ndarray) -> np.ndarray:
    """A frame without the ends that no square of its middle shows, where it is so long that scaling
    them would take gigabytes.
    """
    height, width = frame.shape[:2]
    most = _LONGEST * min(height, width)
    top, left = max(0, (height - most) // 2), max(0, (width - most) // 2)
    return frame[top : top + most, left : left + most]


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 (height, width, 3), bilinear with a filter as wide as a pixel of what comes out."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)
