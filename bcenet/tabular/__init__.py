"""Columns to numbers: types, missing values, categories, scaling and quantile bins."""

from bcenet.tabular.encoder import TabularEncoder
from bcenet.tabular.quantiles import QuantileSketch

__all__ = ["QuantileSketch", "TabularEncoder"]
