"""The training configuration: one TOML file, unknown keys refused with the valid ones named."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from phl_ase.errors import PHLError

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A seed that NumPy, torch and the probes all take."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSection(_Section):
    """Frames that train, choose and test the model."""

    source: str = Field("reactions-wb97xd-631gd", description="bundled name, our HDF5, or anything ase.io reads")
    split: str = Field("random", description="random, stationary or by-reaction")
    split_seed: Seed = Field(0, description="seed of the split")
    fractions: tuple[float, float, float] = Field((0.8, 0.1, 0.1), description="train, valid, test")
    max_atoms: int | None = Field(None, ge=1, description="leave larger systems out")
    keys: dict[str, str] = Field({}, description='label = "key in the file", for files read by ase.io')


class PotentialSection(_Section):
    """Architecture; settings beside the name are those of the architecture."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    architecture: str = Field("painn", description="name in the table of architectures")
    start: str | None = Field(
        None,
        alias="from",
        description="trained model to start from, a bundled name, a file or mace:FILE: leave the settings below out",
    )
    trainable: tuple[str, ...] = Field((), description='parameters of it to train, by name: ["*readouts*"]; none: all')

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> PotentialSection:
        if self.trainable and self.start is None:
            raise ValueError("trainable chooses parameters of a trained model, but from names none")
        if "species" in (self.model_extra or {}):
            raise ValueError("species cannot be set: they are those of the training frames")
        return self

    def settings(self) -> dict[str, Any]:
        """Return the settings of the architecture that the configuration gives."""
        return dict(self.model_extra or {})


class ReplaySection(_Section):
    """Data that the model to start from has learnt before, in every batch, so that it does not forget them."""

    source: str | None = Field(None, description="bundled name, our HDF5, or anything ase.io reads; none: no replay")
    share: float = Field(0.25, gt=0, lt=1, description="of the systems of every batch")
    frames: int | None = Field(None, ge=2, description="at most so many of them, drawn at random")
    seed: Seed = Field(0, description="of that drawing")
    keys: dict[str, str] = Field({}, description='label = "key in the file", for files read by ase.io')
    mixed: bool = Field(False, description="take another level of theory: energies are moved, per species")


class SchemeSection(_Section):
    """Supervision of curvature."""

    name: str = Field("E-F-HVP-random", description="E-F, E-F-HVP-onehot, E-F-HVP-random or E-F-H")
    regime: str = Field("fresh", description="fresh: new probes every minibatch; fixed: the same ones throughout")
    n_probes: int = Field(1, ge=1, description="probes per frame, K")
    probes: str | None = Field(None, description="another probe family than the scheme's own")
    hvp: Literal["exact", "differences"] = Field(
        "exact",
        description="exact, or differences of forces: cheaper, no third derivatives, errors of 1e-4 in float32",
    )


class LossSection(_Section):
    """Weights of the mean square errors (design: w_E, w_F, w_σ, w_H), and of terms that other packages register."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Annotated[float, Field(ge=0)]]
    energy: float = Field(40.0, ge=0, description="of (eV/atom)²")
    forces: float = Field(1.0, ge=0, description="of (eV/Å)²")
    stress: float = Field(0.0, ge=0, description="of (eV/Å³)²")
    curvature: float = Field(0.2, ge=0, description="of (eV/Å²)², where the scheme has curvature")
    curvature_ramp: int = Field(0, ge=0, description="epochs over which the curvature weight grows from 0")

    @model_validator(mode="before")
    @classmethod
    def _terms_exist(cls, values: Any) -> Any:
        strange = [name for name in values if name not in cls.model_fields] if isinstance(values, dict) else []
        if strange:  # only then is it worth torch
            from phl_ase.objective import terms

            wrong: list[InitErrorDetails] = [
                {"type": "extra_forbidden", "loc": (name,), "input": values[name]}
                for name in strange
                if name not in terms()
            ]
            if wrong:
                raise ValidationError.from_exception_data(cls.__name__, wrong)
        return values

    def weights(self) -> dict[str, float]:
        """Return the weight of every term by its name."""
        return {name: weight for name, weight in self if name != "curvature_ramp"}


class TrainingSection(_Section):
    """Optimisation."""

    epochs: int = Field(300, ge=1)
    batch_size: int = Field(16, ge=1, description="systems per optimiser step")
    learning_rate: float = Field(5e-3, gt=0)
    final_learning_rate: float = Field(1e-5, gt=0, description="where the cosine ends, or the plateau stops")
    rate_factors: dict[str, PositiveFloat] = Field(
        {}, description='on the rate, by parameter name, the first that fits: { "*readouts*" = 1, "*" = 0.1 }'
    )
    weight_decay: float = Field(1e-6, ge=0)
    warmup_epochs: int = Field(5, ge=0)
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    plateau_patience: int = Field(10, ge=1, description="validations without gain before the rate is halved")
    clip_norm: float = Field(10.0, gt=0, description="largest gradient norm")
    ema_decay: float = Field(0.995, ge=0, lt=1, description="averaged weights, used for evaluation")
    early_stopping: int | None = Field(None, ge=1, description="validations without gain before the run ends")
    keep: Literal["best", "last"] = Field(
        "best", description="the weights of the lowest validation loss, or those of the last epoch"
    )
    validate_every: int = Field(5, ge=1, description="epochs")
    seed: Seed = 0
    dtype: Literal["float32", "float64"] = "float32"
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, …")
    compile: bool = Field(False, description="torch.compile the loss: halves steps of small molecules, not E-F-H's")
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "highest", description="torch's word for matrix products in float32 on GPUs: float32, TF32 or bfloat16"
    )
    memory_budget_mb: int = Field(512, ge=1, description="for the Hessian rows taken together")
    checkpoint_seconds: float = Field(60.0, ge=0, description="least time between checkpoints")


# keys that came when runs and studies had been kept already, and what these did
_ADDED = (("training", "keep", "best"), ("training", "matmul_precision", "highest"), ("scheme", "hvp", "exact"))
# section, the name of a key when runs had been kept already -> its name now
_RENAMED = {("scheme", "products"): "hvp"}


class TrainConfig(_Section):
    """Everything a run depends on."""

    data: DataSection = DataSection()
    potential: PotentialSection = PotentialSection()
    replay: ReplaySection = ReplaySection()
    scheme: SchemeSection = SchemeSection()
    loss: LossSection = LossSection()
    training: TrainingSection = TrainingSection()

    def to_json(self) -> dict[str, Any]:
        """Plain values, enough to read the configuration again."""
        return self.model_dump(mode="json", by_alias=True)

    def identity(self) -> dict[str, Any]:
        """Plain values of all that a trained model depends on, but for the device: what a run is recognised by."""
        values = self.to_json()
        values["training"].pop("device")
        for section, key, before in _ADDED:
            if values[section][key] == before:
                values[section].pop(key)
        for (section, before), now in _RENAMED.items():  # studies find their runs by these values
            if now in values[section]:
                values[section][before] = values[section].pop(now)
        return values


def renamed(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a section of the configuration of a run, perhaps an old one, with the keys' names of today."""
    return {_RENAMED.get((section, key), key): value for key, value in values.items()}


def settings_before() -> dict[str, Any]:
    """Plain values of a run whose configuration says nothing, as before some of the keys came."""
    from phl_ase.potentials import ARCHITECTURES

    values = TrainConfig().to_json()
    for section, key, before in _ADDED:
        values[section][key] = before
    architecture = ARCHITECTURES[values["potential"]["architecture"]]
    values["potential"] |= {name: getattr(architecture.config, name) for name in architecture.settings()}
    return values


def parse_config(values: Mapping[str, Any], name: str = "configuration") -> TrainConfig:
    """Check plain values.

    Raises:
        PHLError: One line for the first thing that does not fit, naming the valid keys where one is unknown.
    """
    try:
        return TrainConfig.model_validate(dict(values))
    except ValidationError as error:
        raise PHLError(f"{name}: {explain(error, TrainConfig)}") from None


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a TOML file and apply ``section.key=value`` overrides, values written as in TOML.

    Raises:
        PHLError: For a missing file, broken TOML, or anything that does not fit.
    """
    return parse_config(read_toml(path, overrides, command="phl train"), Path(path).name)


def read_toml(path: str | Path, overrides: Sequence[str], *, command: str) -> dict[str, Any]:
    """Plain values of a TOML file, with ``section.key=value`` overrides, values written as in TOML.

    Args:
        path: The file.
        overrides: Applied in order.
        command: Whose ``--init`` writes such a file.

    Raises:
        PHLError: For a missing file, broken TOML, or an override of another form.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows write a byte-order mark
    except FileNotFoundError:
        raise PHLError(f"configuration {path} does not exist; '{command} --init' writes a commented one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise PHLError(f"{path.name}: not a readable TOML file: {error}") from None
    except RecursionError:
        raise PHLError(f"{path.name}: not a readable TOML file: nested too deeply") from None
    for override in overrides:
        apply_override(values, override)
    return values


def default_toml() -> str:
    """Return a commented configuration with every key at its default."""
    from phl_ase.potentials import CORES, PaiNNConfig  # with torch: only this needs the architectures

    lines = ["# Training configuration of phl_ase: run it with 'phl train CONFIG.toml --out FOLDER'."]
    for section, field in TrainConfig.model_fields.items():
        kind = field.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, _Section)
        lines += ["", f"# {(kind.__doc__ or '').splitlines()[0]}", f"[{section}]"]
        fields = kind.model_fields.items()
        lines += [_toml_line(item.alias or key, item.default, item.description) for key, item in fields]
        if section == "potential":
            comments = {
                "channels": "width of the features",
                "layers": "message-passing layers",
                "cutoff": "Å",
                "n_basis": "radial functions",
                "core": f"repulsive core under the network: {', '.join(CORES)}",
            }
            lines += [_toml_line(key, getattr(PaiNNConfig, key), comment) for key, comment in comments.items()]
    return "\n".join(lines) + "\n"


def _toml_line(key: str, value: Any, description: str | None) -> str:
    comment = f"  # {description}" if description else ""
    if value is None:
        return f"# {key} ={comment}"
    return f"{key} = {_toml(value)}{comment}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return str(value)


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one value of a configuration in place.

    Args:
        values: What was read of the TOML file.
        override: ``section.key=value``, the value written as in TOML; a bare word is a string.

    Raises:
        PHLError: For another form.
    """
    key, equals, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not (equals and dot and section and name):
        raise PHLError(f"--set {override!r}: expected section.key=value, for example training.epochs=100")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string: --set scheme.name=E-F
    except RecursionError:
        raise PHLError(f"--set {section}.{name}=…: the value is nested too deeply") from None
    if not isinstance(values.setdefault(section, {}), dict):
        raise PHLError(f"--set {override!r}: {section} is {values[section]!r} in the configuration, not a section")
    values[section][name] = value


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Return the first thing that does not fit, in one line; of an unknown key, the valid ones.

    Args:
        error: What pydantic raised.
        root: The model that was asked for.
    """
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{where} is {first.get('input')!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
    for part in first["loc"][:-1]:
        # a section, or the place in a list of sections
        annotation = root if isinstance(part, int) else root.model_fields[str(part)].annotation
        inner = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        root = next((kind for kind in inner if issubclass(kind, BaseModel)), root)
    valid = sorted(field.alias or key for key, field in root.model_fields.items())
    return f"unknown key {where!r}; valid: {', '.join(valid)}"
