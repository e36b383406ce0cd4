"""What the file of a method imports: the kinds of decision, what they are given, and how a press is named.

Methods outside this package need nothing else of it, so that its rooms may be rearranged.
"""

from kvpress.errors import BudgetError as BudgetError
from kvpress.errors import PressConflictError as PressConflictError
from kvpress.errors import PressSyntaxError as PressSyntaxError
from kvpress.evidence.evidence import Evidence as Evidence
from kvpress.evidence.evidence import Needs as Needs
from kvpress.recipe.kinds import AfterPrefill as AfterPrefill
from kvpress.recipe.kinds import Decisions as Decisions
from kvpress.recipe.kinds import EveryStep as EveryStep
from kvpress.recipe.press import preset as preset
from kvpress.recipe.press import variant as variant
from kvpress.storage.block import Block as Block
from kvpress.storage.codec import Codec as Codec
from kvpress.storage.codec import Packed as Packed
from kvpress.storage.columns import Column as Column
from kvpress.storage.pair import Pair as Pair
from kvpress.storage.pair import PairCodec as PairCodec
from kvpress.storage.pair import Slots as Slots
