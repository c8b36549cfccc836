"""Copy-paste (Ghiasi et al. 2021): objects cut out of one image along their masks and laid onto another.

Edges stay hard: the paper found that blending them makes no difference.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detseg.data.augment.instances import keep_visible, window_of
from detseg.data.augment.mosaic import joined
from detseg.data.sample import Sample


def copy_paste(
    onto: Sample, other: Sample, rng: np.random.Generator, *, min_visible: float = 0.3, min_side: float = 2.0
) -> Sample:
    """`onto` with some objects of `other` laid over it where they are; both of one size, with instance masks.

    Each object of `other` that has a mask and is no crowd is pasted with probability 1/2, one of them in any case. What
    they cover is cut from the masks below, whose boxes and crowds follow as if they had left the image
    (`keep_visible`); of an object without a mask the visible share is that of its box. Objects of `onto` come first.
    """
    if onto.image.shape != other.image.shape:
        raise ValueError(f"copy-paste needs two images of one size, got {onto.size} and {other.size} (width, height)")
    if onto.masks is None or other.masks is None:
        raise ValueError("copy-paste needs the instance masks of both images")
    if onto.mask is not None or other.mask is not None:
        raise ValueError("copy-paste is for objects, it leaves semantic masks as they were")
    candidates = [i for i, crowd in enumerate(other.iscrowd.tolist()) if not crowd and other.masks[i].any()]
    if not candidates:
        return onto
    chosen = np.array(candidates)[rng.random(len(candidates)) < 0.5]
    if not len(chosen):
        chosen = rng.choice(candidates, 1)
    pasted = replace(
        other,
        boxes=other.boxes[chosen],
        labels=other.labels[chosen],
        iscrowd=other.iscrowd[chosen],
        masks=other.masks[chosen],
    )
    assert pasted.masks is not None
    covered = np.asarray(pasted.masks.any(0))
    masks, shares = _uncovered(onto.masks, onto.boxes, covered)
    below = keep_visible(replace(onto, masks=masks), shares, onto.iscrowd, min_visible=min_visible, min_side=min_side)
    return joined(np.where(covered[..., None], other.image, onto.image), [below, pasted])


def _uncovered(
    masks: NDArray[np.uint8], boxes: NDArray[np.float32], covered: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Masks (M, H, W) without what is covered (H, W), and the share (M,) that is left of each, or of its box."""
    masks, shares = masks.copy(), np.ones(len(masks))
    for i, mask in enumerate(masks):
        x1, y1, x2, y2 = window_of(mask)
        known = x2 > x1
        if not known:
            x1, y1, x2, y2 = np.rint(boxes[i]).astype(int).tolist()
        below, hidden = mask[y1:y2, x1:x2], covered[y1:y2, x1:x2]
        whole = np.count_nonzero(below) if known else below.size
        below[hidden] = 0
        left = np.count_nonzero(below) if known else below.size - np.count_nonzero(hidden)
        shares[i] = left / max(1, whole)
    return masks, shares
