"""Attention within a pack: token q attends to token k iff ``k <= q < ends[k]``; one layout for each kernel."""

from typing import TYPE_CHECKING

from tutelage._lazy import lazily

if TYPE_CHECKING:
    from tutelage.model.attention.call import NAME, UnsupportedAttention, attend, register
    from tutelage.model.attention.cpu import QUERY_BLOCK, CpuLayout
    from tutelage.model.attention.flex import FlexLayout
    from tutelage.model.attention.kernel import OPERATIONS, Kernel, kernel_for
    from tutelage.model.attention.layouts import DenseLayout, EqualRowsLayout, Layout, PathsLayout, dense_mask, layout_of

__getattr__, __dir__, __all__ = lazily(__name__)
