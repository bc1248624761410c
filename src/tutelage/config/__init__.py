"""The configuration: its settings, how they are read from TOML and the command line, and how they are described."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.config.aliases import of_another_tool
    from tutelage.config.data_settings import LARGEST_WEIGHT, LEAST_WEIGHT, DataConfig, Source, TrainSource, Weighed
    from tutelage.config.edit import edited, inline, meaning_of
    from tutelage.config.overrides import parse_overrides, split_overrides
    from tutelage.config.plug_in import is_plug_in, load_plug_in
    from tutelage.config.read import (
        as_config,
        changeable,
        describe,
        differences,
        known_keys,
        load_config,
        parse_config,
        replaced,
        shown,
        to_toml,
        with_settings,
    )
    from tutelage.config.settings import Config, EvalConfig, ModelConfig, TrainConfig

__getattr__, __dir__, __all__ = lazily(__name__)
