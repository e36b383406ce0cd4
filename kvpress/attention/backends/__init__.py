"""Kernels that attend to slots where they lie. Importing this room enters those of the library."""

from kvpress.attention.backends import cpu as cpu
from kvpress.attention.backends.table import MAX_ROWS as MAX_ROWS
from kvpress.attention.backends.table import VARIABLE as VARIABLE
from kvpress.attention.backends.table import Kernel as Kernel
from kvpress.attention.backends.table import Part as Part
from kvpress.attention.backends.table import attend as attend
from kvpress.attention.backends.table import enabled as enabled
from kvpress.attention.backends.table import forget as forget
from kvpress.attention.backends.table import register as register
