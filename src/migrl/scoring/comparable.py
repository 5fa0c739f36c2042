"""The rows of all arms, checked that they compare, and what each rule reads in them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from migrl.errors import UserError
from migrl.recipe.arms import is_trained
from migrl.scoring.official import read_officially
from migrl.scoring.rows import EvaluationRow, name_arm, rescore_row

Rule = Literal["strict", "official", "untagged"]


@dataclass(frozen=True)
class ComparableRows:
    """Rows by arm and benchmark, of all training seeds, in their order.

    Arms that someone serves (`served`) were asked alike, and answered by another engine.
    """

    groups: Mapping[tuple[str, str], Sequence[EvaluationRow]]
    served: Collection[str] = ()
    _read: dict[tuple[str, str, Rule], Sequence[EvaluationRow]] = field(default_factory=dict)

    def read(self, arm: str, benchmark: str, rule: Rule) -> Sequence[EvaluationRow]:
        """An arm's rows with the scores that a rule gives them; done once, for it may parse every completion again.

        Raises:
            UserError: as `read_officially`.
        """
        rows = self.groups.get((arm, benchmark), ())
        if rule == "strict":
            return rows
        key = (arm, benchmark, rule)
        if key not in self._read:
            official = rule == "official"
            self._read[key] = [read_officially(row) if official else rescore_row(row, tagged=False) for row in rows]
        return self._read[key]


def index_rows(rows: Iterable[EvaluationRow], served: Collection[str] = ()) -> ComparableRows:
    """The rows of all arms, refused if these cannot be compared.

    Raises:
        UserError: an (arm, seed, uid) comes twice, arms answered different samples or were trained with other
            seeds, or one sample was put to two arms with another prompt, frame, image size, target or image set
            (the key is named).
    """
    groups: dict[tuple[str, str], list[EvaluationRow]] = {}
    arms: dict[tuple[str, int | None], set[str]] = {}
    firsts: dict[str, EvaluationRow] = {}
    for row in rows:
        uid = row.sample.uid
        uids = arms.setdefault((row.arm, row.seed), set())
        if uid in uids:
            raise UserError(f"{row.who}, sample {uid!r}: comes twice; remove one of the two rows")
        uids.add(uid)
        _check_asked_alike(row, firsts.setdefault(uid, row))
        groups.setdefault((row.arm, row.sample.benchmark), []).append(row)
    for (arm, seed), uids in arms.items():
        missing = sorted(firsts.keys() - uids)
        if missing:
            raise UserError(
                f"{name_arm(arm, seed)}: {len(missing)} samples that other arms answered are missing, "
                f"such as {missing[0]!r}; finish its evaluation"
            )
    _check_seeds(arms, served)
    return ComparableRows(groups, served)


def _check_asked_alike(row: EvaluationRow, first: EvaluationRow) -> None:
    asked, before = ((one.sample, one.prompt_hash, one.frame, one.resized_sizes) for one in (row, first))
    if asked == before:
        return
    one, other = row.to_json(), first.to_json()  # what was asked comes before the answer
    key = next(key for key in one if key != "arm" and one[key] != other[key])
    raise UserError(
        f"sample {row.sample.uid!r}: key {key!r} is {one[key]!r} for {row.who} and {other[key]!r} for {first.who}; "
        "evaluate both arms with the same prompts, images and limits"
    )


def _check_seeds(arms: Collection[tuple[str, int | None]], served: Collection[str]) -> None:
    """Refuse a trained arm that lacks a training seed of the others, and an untrained one that has a seed."""
    every = {seed for _, seed in arms if seed is not None}
    for arm in sorted({arm for arm, _ in arms}) if every else ():
        named = {seed for other, seed in arms if other == arm}
        due = every if is_trained(arm, served) else {None}
        if named != due:
            raise UserError(
                f"arm {arm!r}: its rows are of {_list_seeds(named)}, and should be of {_list_seeds(due)}; evaluate "
                "every trained arm with every training seed, and base or a served arm once, without one"
            )


def _list_seeds(seeds: Collection[int | None]) -> str:
    known = sorted(seed for seed in seeds if seed is not None)
    return " and ".join([*(["no seed"] if None in seeds else []), *(f"seed {seed}" for seed in known)])
