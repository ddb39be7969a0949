"""Data sets: the HDF5 format, readers of foreign files, splits, summaries, and the data that come with the package."""

from phl_ase.datasets.base import BaseDataset, MemoryDataset
from phl_ase.datasets.combining import merge, write_split
from phl_ase.datasets.formats import EXPORTERS, FORMATS, exporter_of
from phl_ase.datasets.importing import ImportReport, import_dataset
from phl_ase.datasets.labelled import labelled_atoms, labelled_frame
from phl_ase.datasets.reactions import ReactionFrames, reactions_of
from phl_ase.datasets.readers import BUNDLED, data_card, open_dataset, read_images, write_extxyz
from phl_ase.datasets.schema import DatasetMeta
from phl_ase.datasets.splits import SPLITS, Split, split
from phl_ase.datasets.store import Dataset
from phl_ase.datasets.summary import measures, summarise
from phl_ase.datasets.writer import write_dataset

__all__ = [
    "BUNDLED",
    "EXPORTERS",
    "FORMATS",
    "SPLITS",
    "BaseDataset",
    "Dataset",
    "DatasetMeta",
    "ImportReport",
    "MemoryDataset",
    "ReactionFrames",
    "Split",
    "data_card",
    "exporter_of",
    "import_dataset",
    "labelled_atoms",
    "labelled_frame",
    "measures",
    "merge",
    "open_dataset",
    "reactions_of",
    "read_images",
    "split",
    "summarise",
    "write_dataset",
    "write_extxyz",
    "write_split",
]
