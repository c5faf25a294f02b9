"""Folders that bring their code: `AutoModel.from_pretrained(folder, trust_remote_code=True)` opens them without us."""

import base64
import dataclasses
import functools
import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .._version import __version__
from ..errors import CheckpointError, ConfigurationError
from ..files import new_folder, read_json_object, read_text_file, write_text
from ..opening.families import read_config
from ..opening.files import ADAPTER_CONFIG, require_readable, weight_files
from ..registry import COMPOSITES, FAMILIES, Composite, Family
from ..registry.specialists import SPECIALISTS, Specialist
from ..tokenization.genes.table_files import packed_table
from .card import FACTS_FILE, CardFacts, code_section, render_card
from .flat_modules import PREFIX, flat_name, flatten, third_party
from .folder import list_files

ENTRY = f"{PREFIX}code"
"""The module that holds the classes that `auto_map` names."""

CODE_FILES = f"{PREFIX}*.py"
"""Pattern of the names of all files of code."""

_RECORDS: dict[str, Family | Composite | Specialist] = FAMILIES | COMPOSITES | SPECIALISTS
_CELLS = "cell_processor"
"""Where a model of cells and text has the processor of its cells."""

_TOKENIZER = "sclm_hf.tokenization.genes.tokenization_gene"
_EXTRACTOR = "sclm_hf.tokenization.feature_extraction_expression"
_REGISTRY = "sclm_hf.registry"
_TABLE_FILES = "sclm_hf.tokenization.genes.table_files"
_TABLES = ("human_genes.tsv.gz", "mouse_orthologs.tsv.gz")

_NOTICE = f"""\
{{what}}
Written by `sclm-hf export with-code` of sclm_hf {__version__}.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
"""


def export_with_code(folder: str | Path, output: str | Path) -> Path:
    """Write a copy of a model that transformers opens where this package is not installed.

    It holds the model's classes and all that they need as files of Python, and says in `auto_map` where they are.
    Results are the same to the last bit. What stays here: verbs, training, adapters' defaults, converters.

    Args:
        folder: folder of a model of a family, of cells and text, or of a task-specific one, with its processor.
        output: folder to write; it must be empty or not exist.

    Returns:
        `output`.

    Raises:
        CheckpointError: `folder` holds no such model with its processor, or no weights as safetensors.
        ConfigurationError: something is at `output` already.
    """
    folder, output = Path(folder), Path(output)
    written = files_with_code(folder)
    files, _ = list_files(folder)
    with new_folder(output) as unfinished:
        for path, file in files.items():
            # the code of an earlier export makes room for that of this one
            if path not in written and not fnmatch(path, CODE_FILES):
                (unfinished / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, unfinished / path)
        for path, text in written.items():
            write_text(unfinished / path, text)
    return output


def files_with_code(folder: str | Path) -> dict[str, str]:
    """What a copy of a model needs beside its other files to bring its code.

    Args:
        folder: folder of a model with its processor.

    Returns:
        File name -> text: the modules, and the configurations and the card that name them.

    Raises:
        CheckpointError: it holds no such model with its processor, or no weights as safetensors.
    """
    folder = Path(folder)
    record, encoder = _records(folder)
    return code_of(record.name, encoder and encoder.name) | _settings(folder, record) | _card(folder, record)


def _records(folder: Path) -> tuple[Family | Composite | Specialist, Family | None]:
    """What is known of the model, and of the encoder of cells below a model of cells and text."""
    if not folder.is_dir():
        raise ConfigurationError(f"`{folder}` is not a folder: give the one that training or converting wrote.")
    require_readable(str(folder))
    if (folder / ADAPTER_CONFIG).exists():
        raise CheckpointError(
            f"`{folder}` holds an adapter: export the whole model, which training writes around `adapter/`, or save "
            "`merge_adapter(load_adapter(...))` of `sclm_hf.adapters.lora` with its processor."
        )
    config = read_config(str(folder))
    record = _known(folder, config.get("model_type"), _RECORDS)
    encoder = None
    if isinstance(record, Composite):
        encoder = _known(folder, (config.get("cell_config") or {}).get("model_type"), FAMILIES)
    weight_files(str(folder))
    for name in _needed(record):
        if not (folder / name).exists():
            raise CheckpointError(f"`{folder}` holds no `{name}`: save the model's processor there.")
    return record, encoder


def _known(folder: Path, model_type: str | None, known: dict[str, Any]) -> Any:
    if model_type not in known:
        raise CheckpointError(
            f"`{folder}` holds a `{model_type}` model, whose code cannot be exported: expected one of "
            f"{', '.join(sorted(known))}. A stock model beside our processor becomes one when its family's class "
            "opens and saves it."
        )
    return known[model_type]


def _needed(record: Family | Composite | Specialist) -> list[str]:
    """The files of a processor."""
    names = ["processor_config.json", *([] if isinstance(record, Specialist) else ["tokenizer_config.json"])]
    return names + ([f"{_CELLS}/{name}" for name in names] if isinstance(record, Composite) else [])


@functools.cache
def code_of(name: str, encoder: str | None = None) -> dict[str, str]:
    """File name -> text of every module that a model needs, and of `ENTRY`, which leads to all of them.

    Args:
        name: family, model of cells and text, or task-specific model.
        encoder: family of the encoder of cells below a model of cells and text.

    Raises:
        ConfigurationError: a module cannot be moved.
    """
    record, cells = _RECORDS[name], FAMILIES.get(encoder or name)
    instead = {_TABLE_FILES: _table_files()} | ({_REGISTRY: _registry(cells)} if cells else {})
    joined = cells if isinstance(record, Composite) else None
    homes = _homes(record) | (_homes(joined) if joined else {})
    texts = flatten(homes, instead)
    files = {
        f"{flat_name(module)}.py": _noticed(f"`{module}`, its imports changed to fit one folder.", text)
        for module, text in texts.items()
    }
    entry = _entry(homes, third_party(texts.values())) + (_joining(record, joined) if joined else "")
    return files | {f"{ENTRY}.py": _noticed("The way into the modules beside it.", entry)}


def _homes(record: Family | Composite | Specialist) -> dict[str, list[str]]:
    """Module -> its classes that `auto_map` names, and the other models."""
    homes = {record.configuration_module: [record.config], record.modeling_module: _models(record)}
    if isinstance(record, Family):
        homes |= {_TOKENIZER: [record.tokenizer], _EXTRACTOR: [record.feature_extractor]}
    return homes | {record.processor_module: [record.processor]}


def _models(record: Family | Composite | Specialist) -> list[str]:
    return sorted({*record.models, *record.auto_classes.values()})


def _noticed(what: str, text: str) -> str:
    """A module with the notice of its licence above it."""
    lines = _NOTICE.format(what=what).splitlines()
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + text


def _entry(homes: dict[str, list[str]], packages: list[str]) -> str:
    records = [record for record in _RECORDS.values() if record.modeling_module in homes]
    models = sorted({name for record in records for name in _models(record)})
    imports = [f"import {package}" for package in packages]
    imports += ["", *(f"from .{flat_name(home)} import (\n    {_listed(names)}\n)" for home, names in homes.items())]
    others = [name for names in homes.values() for name in names if name not in models]
    return _ENTRY.format(imports="\n".join(imports), models=_listed(models), others=_listed(others))


def _listed(names: list[str]) -> str:
    return ",\n    ".join(names) + ","


_ENTRY = '''\
"""The classes that `auto_map` names.

All come from here, so that configuration, model, tokenizer and processor share one copy of the modules. The packages
are named first, so that transformers says which of them are not installed.
"""

{imports}

_MODELS = (
    {models}
)
for _model in _MODELS:
    # transformers looks for an attention in the file that the class says it is from, and remembers the answer
    _model._can_set_attn_implementation()
_OTHERS = (
    {others}
)
for _class in (*_MODELS, *_OTHERS):
    # `save_pretrained` takes along that file and all that it imports, which is everything
    _class.__module__ = __name__
'''


def _joining(composite: Composite, family: Family) -> str:
    model = family.auto_classes["AutoModel"]
    return f'''
# a model of cells and text finds its parts by the Auto classes
transformers.AutoConfig.register("{family.name}", {family.config}, exist_ok=True)
transformers.AutoModel.register({family.config}, {model}, exist_ok=True)
transformers.AutoTokenizer.register({family.config}, tokenizer_class={family.tokenizer}, exist_ok=True)
transformers.AutoFeatureExtractor.register({family.config}, {family.feature_extractor}, exist_ok=True)
transformers.AutoProcessor.register({family.config}, {family.processor}, exist_ok=True)
{composite.config}.sub_configs_defaults["cell_config"].model_type = "{family.name}"
'''


def _registry(family: Family) -> str:
    home = f"{_REGISTRY}.{family.name}"
    return f'''\
"""The one family whose code is here."""

from sclm_hf.errors import ConfigurationError
from {home} import FAMILY


def get_family(name):
    if name != FAMILY.name:
        raise ConfigurationError(f"Here is the code of `{{FAMILY.name}}` alone: for `{{name}}` install sclm_hf.")
    return FAMILY
'''


def _table_files() -> str:
    """The gene tables as a module: transformers' loader takes along nothing but Python."""
    tables = {name: base64.b85encode(packed_table(name)).decode() for name in _TABLES}
    literals = "\n".join(f'    "{name}": """\n{_in_lines(text)}\n""",' for name, text in tables.items())
    return f'''\
"""The gene tables: HGNC (CC0), GENCODE and Ensembl (free to use), as packed files in letters."""

import base64

_TABLES = {{
{literals}
}}


def packed_table(name):
    return base64.b85decode(_TABLES[name].replace("\\n", ""))
'''


def _in_lines(text: str, width: int = 116) -> str:
    return "\n".join(text[start : start + width] for start in range(0, len(text), width))


def _settings(folder: Path, record: Family | Composite | Specialist) -> dict[str, str]:
    """The configurations, which say where the classes are."""
    config, processor = (read_json_object(folder / f"{name}config.json") for name in ("", "processor_"))
    named = {"AutoConfig": record.config, **record.auto_classes}
    config["auto_map"] = {auto: f"{ENTRY}.{name}" for auto, name in named.items()}
    processor["auto_map"] = {"AutoProcessor": f"{ENTRY}.{record.processor}"}
    written = {"config.json": config, "processor_config.json": processor}
    if isinstance(record, Family):
        processor["feature_extractor"]["auto_map"] = {"AutoFeatureExtractor": f"{ENTRY}.{record.feature_extractor}"}
        # the slow one and the fast one
        tokenizer = {"AutoTokenizer": [f"{ENTRY}.{record.tokenizer}", None]}
        written["tokenizer_config.json"] = read_json_object(folder / "tokenizer_config.json") | {"auto_map": tokenizer}
    return {name: _json(settings) for name, settings in written.items()}


def _json(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _card(folder: Path, record: Family | Composite | Specialist) -> dict[str, str]:
    """The card, which says that the folder brings code; none where there is none yet."""
    if (folder / FACTS_FILE).exists():
        facts = dataclasses.replace(CardFacts.load(folder / FACTS_FILE), brings_code=True)
        return {FACTS_FILE: facts.to_json(), "README.md": str(render_card(facts))}
    if not (folder / "README.md").exists():
        return {}
    text, section = read_text_file(folder / "README.md").rstrip(), code_section("this/repository", record)
    return {"README.md": f"{text}\n" if section in text else f"{text}\n\n{section}\n"}
