"""The files a run leaves: genotype, model metadata, run folder, all written atomically (standard library only)."""

from __future__ import annotations

from fer_nas.artifacts.files import atomic_path, read_json, write_json, write_text
from fer_nas.artifacts.genotype import GENOTYPE_SCHEMA, Edge, Genotype, GenotypeFile
from fer_nas.artifacts.metadata import MODEL_SCHEMA, ModelMetadata
from fer_nas.artifacts.run_folder import RunFolder

__all__ = [
    "GENOTYPE_SCHEMA",
    "MODEL_SCHEMA",
    "Edge",
    "Genotype",
    "GenotypeFile",
    "ModelMetadata",
    "RunFolder",
    "atomic_path",
    "read_json",
    "write_json",
    "write_text",
]
