"""Clusters of questions: those that share a picture are correlated, and resampled together."""

from collections.abc import Sequence


def name_clusters(image_sets: Sequence[tuple[str, ...]]) -> list[str]:
    """One name per question: the first image of its connected component of questions that share an image.

    Questions without images are clusters of their own.
    """
    parents: dict[str, str] = {}

    def find_root(image: str) -> str:
        root = image
        while parents.setdefault(root, root) != root:
            root = parents[root]
        while parents[image] != root:
            parents[image], image = root, parents[image]
        return root

    for images in image_sets:
        for image in images[1:]:
            a, b = find_root(images[0]), find_root(image)
            # The smaller name wins, so that names do not depend on the order of the records.
            parents[max(a, b)] = min(a, b)
    return [find_root(images[0]) if images else f"#{number}" for number, images in enumerate(image_sets)]
