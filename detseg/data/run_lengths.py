"""Many run-length masks in flat arrays, not in Python objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RunLengths(Sequence[dict[str, Any]]):
    """n compressed COCO masks within one text; each entry is a dict of `size` (height, width) and `counts` (bytes).

    The characters of mask i are `texts[spans[i, 0] : spans[i, 1]]`.
    """

    def __init__(self, texts: NDArray[np.uint8], spans: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        self.texts, self.spans, self.sizes = texts, spans, sizes  # (characters,), (n, 2), (n, 2)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return RunLengths(self.texts, self.spans[index], self.sizes[index])
        first, last = self.spans[index].tolist()
        return {"size": self.sizes[index].tolist(), "counts": self.texts[first:last].tobytes()}
