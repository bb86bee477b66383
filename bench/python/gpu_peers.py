"""Every peer of the benchmarks called once, so that what it compiles at its first call is there.

FlashInfer compiles its kernels for a minute or more, and keeps them in the home directory.

    python bench/python/gpu_peers.py
"""

from __future__ import annotations

from gpu_row_cases import PEERS, verify_case


def main() -> None:
    """Check a small case; peers that do not run are told, and are no error."""
    case = verify_case(batch=8, drafted=2, columns=1000, sets=1)
    case.check()
    for peer in PEERS:
        if any(peer == name for name, *_ in case.ways):
            print(f"{peer}: ready")
    for reason in case.missing:
        print(f"without {reason}")


if __name__ == "__main__":
    main()
