"""Every picture is decoded once, whole, before anything runs on it: what is cut is found here, and sizes are kept."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

from migrl.errors import UserError
from migrl.grounding.boxes import Size
from migrl.grounding.images import decode_image, fit_sizes
from migrl.progress import show_progress

BATCH = 64  # pictures a thread decodes in one go
_ANY_AREA = (1, 1 << 40)  # limits that any picture meets: only its shape is looked at here


class PictureCheck:
    """What is known of the pictures below a folder, each decoded once however many splits show it.

    `sizes` holds the (width, height) in px of the sound ones, `faults` what is wrong with the others, and `turned`
    those with an EXIF orientation, which is not applied.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sizes: dict[str, Size] = {}
        self.faults: dict[str, str] = {}
        self.turned: list[str] = []

    def decode(self, names: Iterable[str], label: str) -> None:
        """Decode those of the named pictures that were not decoded before, and show it where that takes long."""
        fresh = sorted({*names} - self.sizes.keys() - self.faults.keys())
        batches = [fresh[at : at + BATCH] for at in range(0, len(fresh), BATCH)]
        # Threads, as PIL's decoders let go of Python's lock.
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            found = pool.map(self._decode_batch, batches)
            with show_progress(f"decoding pictures of {label}", len(fresh), quick=True) as progress:
                for decoded in accumulate(found):
                    progress.tell(decoded)
        finally:  # also when somebody stops it: what waits is not decoded then
            pool.shutdown(cancel_futures=True)
        # In the order of names, whichever thread came first: what is said of them is the same each time.
        self.sizes, self.faults = dict(sorted(self.sizes.items())), dict(sorted(self.faults.items()))
        self.turned.sort()

    def _decode_batch(self, names: Sequence[str]) -> int:
        for name in names:
            path = self.folder / name
            try:
                image, orientation = decode_image(path)
                fit_sizes(path, image.size, [_ANY_AREA])
            except UserError as error:
                self.faults[name] = str(error)
            else:
                self.sizes[name] = image.size
                if orientation != 1:
                    self.turned.append(name)
        return len(names)
