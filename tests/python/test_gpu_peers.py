"""The optional peers of ``verify``, on the CPU with fakes of other projects' functions."""

from __future__ import annotations

import sys
import zipfile
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
import torch

SAMPLER = "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils"


def chains(bench, columns=50):
    accepted = torch.tensor([[True, True, False], [True, True, True], [False, True, True]])
    made = bench("row_cases").chains_of("cpu", torch.bfloat16, accepted, columns, seed=0)
    return made, torch.tensor([2, 3, 0])


def test_vllm_gets_what_its_kernels_read(bench, monkeypatch):
    """A slow twin with the arguments of vLLM's function."""

    def rejection_sample(
        target_logits, draft_logits, draft_sampled, cu_num_logits, pos, idx_mapping,
        expanded_idx_mapping, expanded_local_pos, temperature, seed, num_speculative_steps,
    ):  # fmt: skip
        assert draft_logits.shape[1] == num_speculative_steps
        assert (temperature == 1).all()
        counts = []
        for b, state in enumerate(idx_mapping.tolist()):
            begin, end = cu_num_logits[b : b + 2].tolist()
            assert expanded_idx_mapping[begin:end].tolist() == [state] * (end - begin)
            assert expanded_local_pos[begin:end].tolist() == list(range(end - begin))
            assert pos.dtype == torch.int64
            assert len(seed) > state
            count = 0
            for i in range(end - begin - 1):
                token = draft_sampled[begin + 1 + i]
                p = target_logits[begin + i].float().softmax(-1)[token]
                if p <= 0.5 * draft_logits[state, i].float().softmax(-1)[token]:
                    break
                count += 1
            counts.append(count + 1)
        return draft_sampled, torch.tensor(counts, dtype=torch.int32)

    module = ModuleType(SAMPLER)
    module.rejection_sample = rejection_sample
    parts = SAMPLER.split(".")
    for k in range(1, len(parts)):
        package = ModuleType(".".join(parts[:k]))
        package.__path__ = []
        monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, SAMPLER, module)
    utils = ModuleType("vllm.triton_utils")
    monkeypatch.setitem(sys.modules, utils.__name__, utils)  # removed at the end
    del sys.modules[utils.__name__]
    peers = bench("verify_peers")
    monkeypatch.setattr(peers, "_triton_utils", lambda: utils)
    made, counts = chains(bench)
    for _ in range(2):  # as for each case
        peer = peers.GPU_PEERS["vllm"]([made])
        assert peer.captured
        assert torch.equal(peers.accepted_by(peer.run(0)), counts)
    assert sys.modules[utils.__name__] is utils


@pytest.mark.parametrize("takes_seed", [True, False])
def test_flashinfer_is_captured_if_it_takes_a_seed(bench, monkeypatch, takes_seed):
    def sampling(draft_probs, draft_token_ids, target_probs):
        tokens = torch.full((len(draft_token_ids), 4), -1)
        tokens[:, :2] = 0
        return tokens, None, None

    def seeded(draft_probs, draft_token_ids, target_probs, seed=None, offset=None):
        assert seed.dtype == offset.dtype == torch.int64
        return sampling(draft_probs, draft_token_ids, target_probs)

    module = ModuleType("flashinfer.sampling")
    module.chain_speculative_sampling = seeded if takes_seed else sampling
    monkeypatch.setitem(sys.modules, "flashinfer", ModuleType("flashinfer"))
    monkeypatch.setitem(sys.modules, "flashinfer.sampling", module)
    peers = bench("verify_peers")
    made, _ = chains(bench)
    peer = peers.GPU_PEERS["flashinfer, softmax before it"]([made])
    assert peer.captured == takes_seed
    assert peers.accepted_by(peer.run(0)).tolist() == [1, 1, 1]


def test_peers_that_cannot_be_captured_are_timed_call_by_call(bench, monkeypatch):
    row_cases, peers = bench("row_cases"), bench("verify_peers")
    capturing = []

    @contextmanager
    def graph(_):
        capturing.append(True)
        yield
        capturing.pop()

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", SimpleNamespace)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    transformers = peers.GPU_PEERS["transformers, a chain at a time"]

    def refuses(made):
        def run(k):
            if capturing:
                raise RuntimeError("operation not permitted when stream is capturing")
            return torch.tensor([[5, 6, 7, 8]])

        return peers.Peer(run, captured=True)

    def accepts_less(made):
        return peers.Peer(lambda k: torch.tensor([[5, 6, 7, -1]]), captured=True)

    def absent(made):
        raise ModuleNotFoundError("No module named 'absent'")

    def captured(made):
        return transformers(made)._replace(captured=True)

    optional = {
        "waits": transformers, "refuses": refuses, "captured": captured,
        "accepts less": accepts_less, "absent": absent,
    }  # fmt: skip
    case = row_cases.verify_case("cpu", columns=50, drafted=3, sets=1, optional=optional)
    case.check()
    assert list(case.ways)[3:] == ["waits", "refuses", "captured"]
    assert case.synchronizing == {"waits", "refuses"}
    assert [reason.split(":")[0] for reason in case.missing] == ["accepts less", "absent"]


def test_files_of_a_wheel(bench, tmp_path):
    vllm_files = bench("vllm_files")
    wheel, out = tmp_path / "vllm.whl", tmp_path / "out"
    sampler = SAMPLER.replace(".", "/") + ".py"
    files = {
        sampler: "from vllm.triton_utils import tl\nfrom vllm.v1.noise import (\n    draw,\n)",
        "vllm/v1/noise.py": "import torch",
        "vllm-9.dist-info/METADATA": "Version: 9",
    }
    others = {"vllm/v1/other.py": "", "vllm/triton_utils/__init__.py": ""}
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in (files | others).items():
            archive.writestr(name, text)
    vllm_files.extract(wheel, out)
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert found == set(files)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(sampler, files[sampler])
    with pytest.raises(ValueError, match=r"has no vllm/v1/noise.py; take another version of vLLM"):
        vllm_files.extract(wheel, out)
