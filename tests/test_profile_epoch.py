"""Where an epoch's time goes: operations are told apart by what JAX names them."""

import json

import pytest

import profile_epoch

PROGRAM = """\
HloModule jit_train_runs

%fused.1 (a: f32[4,4]) -> bf16[4,4] {
  %a = f32[4,4]{1,0} parameter(0)
  %b = u16[4,4]{1,0} convert(%a), metadata={op_name="jit(one)/layer_01/to_bfloat16/convert"}
  ROOT %t = u16[4,4]{1,0} add(%b, %b), metadata={op_name="jit(one)/optimizer/add"}
}

%fused.2 (a: f32[4,4], b: f32[4,4]) -> f32[4,4] {
  %a = f32[4,4]{1,0} parameter(0)
  ROOT %d = f32[4,4]{1,0} dot(%a, %a), metadata={op_name="jit(one)/layer_01/dot_general"}
}

ENTRY %main (x: f32[4,4]) -> (f32[4,4], f32[]) {
  %x = f32[4,4]{1,0} parameter(0)
  %rounded = bf16[4,4]{1,0} fusion(%x), kind=kLoop, calls=%fused.1
  %product.3 = (f32[4,4]{1,0}, u8[7]{0}) fusion(%x, %x), kind=kCustom, calls=%fused.2
  %scaled = f32[4,4]{1,0} multiply(%x, %x), metadata={op_name="jit(one)/while/enorm/mul"}
  %relu = f32[4,4]{1,0} maximum(%x, %x), metadata={op_name="jit(one)/relu/max"}
  ROOT %loop = (f32[4,4]{1,0}, f32[]) while(%x), condition=%c, body=%b
}
"""


def test_operations_are_told_apart_by_their_names_and_loops_left_out():
    parts = profile_epoch.parts_of(PROGRAM)
    expected = {
        "rounded": "rounding",
        "product.3": "products",
        "scaled": "ENorm",
        "relu": "the rest",
    }
    assert {name: parts[name] for name in expected} == expected
    assert "loop" not in parts


@pytest.mark.slow
def test_an_epoch_is_profiled_in_both_precisions(run_script, tmp_path):
    out = tmp_path / "profile.json"
    status, text, err = run_script(
        "experiments/profile_epoch.py", "--dataset", "digits", "--methods", "enorm+bn",
        "--depth", "1", "--train-images", "1024", "--out", out,
    )  # fmt: skip
    assert status == 0, err
    assert "ENorm + BN" in text
    for entry in json.loads(out.read_text())["profiles"]:
        seconds = entry["seconds"]
        rounded = entry["settings"]["precision"] == "bfloat16"
        assert ("rounding" in seconds) == rounded
        for part in ("products", "ENorm", "optimizer", "normalization"):
            assert seconds[part] > 0, part
