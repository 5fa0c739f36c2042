"""A training goes on from the last checkpoint that has all that it needs, and from no other."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from migrl.files import write_json
from migrl.training.checkpoints import find_checkpoint

STATE = {"state": torch.ones(64)}


def write_checkpoint(folder: Path, step: int, ranks: list[str], *, deepspeed: bool = False) -> Path:
    """A checkpoint with the files that trl writes, alone or under DeepSpeed."""
    folder = folder / f"checkpoint-{step}"
    states = folder / f"global_step{step}"
    states.mkdir(parents=True)
    save_file(STATE, folder / "adapter_model.safetensors")
    names = ["scheduler.pt", *(f"rng_state{rank}.pth" for rank in ranks)]
    if deepspeed:
        (folder / "latest").write_text(states.name)
        shares = [f"bf16_zero_pp_rank_{number}_mp_rank_00_optim_states.pt" for number in range(len(ranks))]
        names += [f"{states.name}/{name}" for name in (*shares, "mp_rank_00_model_states.pt")]
    else:
        names.append("optimizer.pt")
    for name in names:
        torch.save(STATE, folder / name)
    write_json(folder / "trainer_state.json", {"global_step": step})
    return folder


@pytest.mark.parametrize("how", ["gone", "torn", "empty"])
@pytest.mark.parametrize(("ranks", "deepspeed"), [([""], False), (["_0", "_1"], False), (["_0", "_1"], True)])
def test_a_checkpoint_without_any_of_its_files_is_passed_over_for_the_one_before(
    tmp_path: Path, ranks: list[str], deepspeed: bool, how: str
) -> None:
    before = write_checkpoint(tmp_path, 8, ranks, deepspeed=deepspeed)
    last = write_checkpoint(tmp_path, 10, ranks, deepspeed=deepspeed)
    assert find_checkpoint(tmp_path, len(ranks)) == str(last)
    for path in [path for path in last.rglob("*") if path.is_file()]:
        if deepspeed and path.name.startswith("adapter"):
            continue  # DeepSpeed has the weights among its own states
        data = path.read_bytes()
        path.unlink()
        if how != "gone":
            path.write_bytes(data[: len(data) // 2] if how == "torn" else b"")
        assert find_checkpoint(tmp_path, len(ranks)) == str(before), path.name
        path.write_bytes(data)
    shutil.rmtree(before)
    assert find_checkpoint(tmp_path, len(ranks)) == str(last)


def test_a_checkpoint_of_other_processes_is_none_of_ours(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 4, ["_0", "_1"])
    assert find_checkpoint(tmp_path, 1) is None and find_checkpoint(tmp_path, 3) is None
    assert find_checkpoint(tmp_path, 2) is not None


def test_whole_models_in_shards_need_every_shard(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 2, [""])
    (folder / "adapter_model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    save_file(STATE, folder / "1.safetensors")
    assert find_checkpoint(tmp_path, 1) is None
    save_file(STATE, folder / "2.safetensors")
    assert find_checkpoint(tmp_path, 1) == str(folder)
