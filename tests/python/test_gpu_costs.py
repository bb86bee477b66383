"""What ``bench/gpu.sh costs`` runs, on the CPU with small sizes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

SMALL = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rows": (1, 3),
}


# ---- passes ----


def test_passes_of_each_model(bench, monkeypatch, tmp_path):
    passes = bench("passes")
    small = {name: replace(shape, **SMALL) for name, shape in passes.SHAPES.items()}
    small["broken"] = replace(small["target 7B"], num_attention_heads=3)
    monkeypatch.setattr(passes, "SHAPES", small)
    monkeypatch.setattr(passes, "copy_bandwidth", lambda device: 1e9)
    path = tmp_path / "passes.json"
    with pytest.raises(SystemExit, match="failed: broken"):
        passes.main("cpu", "", path)
    measured = json.loads(path.read_text())
    assert list(measured["failed"]) == ["broken"]
    assert [row["rows"] for row in measured["rows"]] == [1, 3] * 4
    for row in measured["rows"]:
        assert row["eager"]["median"] > 0
        assert row["graph"] is None
        expected = row["weight_bytes"] / 1e9 / row["eager"]["median"]
        assert row["of_copy"] == pytest.approx(expected)


def test_a_pass_reads_the_rows_asked_for(bench):
    passes = bench("passes")
    shape = replace(passes.SHAPES["target 0.5B"], **SMALL)
    graphs = []

    def graph(model):
        """On the CPU a pass is its own recording."""
        graphs.append(passes.CudaGraphRunner(model, lambda run: run))
        return graphs[0]

    read = []
    forward = passes.TorchRunner._forward

    def recorded(runner, tokens, *args, **inputs):
        read.append((runner in graphs, tokens.shape[1]))
        return forward(runner, tokens, *args, **inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes.TorchRunner, "_forward", recorded)
        rows = passes.measure("small", shape, "cpu", graph)
    prefill = {(by_graph, passes.TEXT_LENGTH) for by_graph in (False, True)}
    # Recorded passes are padded to powers of two.
    assert set(read) - prefill <= {(False, 1), (False, 3), (True, 1), (True, 4)}
    assert {(False, 3), (True, 4)} <= set(read)
    assert all(row.graph is not None for row in rows)
    passes.show(rows, 1e9)


def test_without_a_recording_there_is_no_time_of_a_graph(bench):
    passes = bench("passes")
    shape = replace(passes.SHAPES["draft 0.1B"], **SMALL)

    def fails(run):
        raise RuntimeError("operation not permitted when stream is capturing")

    rows = passes.measure("small", shape, "cpu", lambda model: passes.CudaGraphRunner(model, fails))
    assert [row.graph for row in rows] == [None, None]


@pytest.mark.parametrize("tied", [True, False])
def test_bytes_of_the_weights(bench, tied):
    passes = bench("passes")
    shape = replace(passes.SHAPES["target 7B"], **SMALL, tie_word_embeddings=tied)
    model = shape.model("cpu")
    rows = 101 * 32
    others = sum(w.numel() for name, w in model.named_parameters() if "embed" not in name)
    assert passes.weight_bytes(model) == 2 * (others + (rows if tied else 0))


# ---- the profile ----


def test_hot_kernels_run(bench):
    bench("hot_kernels").run("cpu", columns=1000)


PROFILE = """==PROF== Connected to process 7
"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","verify_sampled","gpu__time_duration.sum","us","1,250.5"
"0","verify_sampled","dram__throughput.avg.pct_of_peak_sustained_elapsed","%","81.5"
"1","void race<BFloat16>","sm__inst_executed_pipe_alu.avg.pct_of_peak_sustained_active","%","70"
"""


def test_the_report_has_the_passes_and_the_profile(bench, tmp_path):
    gpu_report = bench("gpu_report")
    steps, passes, ncu = (tmp_path / name for name in ("steps", "passes.json", "ncu.csv"))
    steps.write_text("passes 0 30\nprofile 0 20\n")
    passes.write_text('{"rows": [')
    ncu.write_text(PROFILE)
    target = tmp_path / "gpu_costs.json"
    assert gpu_report.main("9.0", target, steps, tmp_path / "measured.json", passes, ncu) == 0
    report = json.loads(target.read_text())
    assert "measured" not in report
    assert report["passes"].startswith("not readable")
    verify, sample = report["ncu"]
    assert verify["gpu__time_duration.sum"] == 1250.5
    assert verify["percent_of_bound"] == 81.5
    assert "alu" in sample["bound"]
    ncu.write_text("==ERROR== no permission\n")
    gpu_report.main("9.0", target, steps, ncu)
    assert "no measurement" in json.loads(target.read_text())["ncu"]
