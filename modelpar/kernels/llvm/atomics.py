"""A counter in memory at which compiled threads meet."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from modelpar.kernels.llvm.vectors import I32, I64, function
from modelpar.machine.compilation import njit

SPINS = 500  # looks at the counter before the core is offered to others: far less than a slice of the scheduler's


@intrinsic
def count_up(typingctx: Any, address: Any) -> Any:
    """Add 1 to the int64 at ``address``, as one step for all threads."""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        b.atomic_rmw("add", b.inttoptr(args[0], I64.as_pointer()), ir.Constant(I64, 1), "seq_cst")
        return context.get_dummy_value()

    return types.void(types.intp), build


@intrinsic
def current(typingctx: Any, address: Any) -> Any:
    """Value of the int64 at ``address`` now; what other threads wrote before they set it is seen afterwards"""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return b.load_atomic(b.inttoptr(args[0], I64.as_pointer()), "seq_cst", 8)

    return types.int64(types.intp), build


@intrinsic
def offer_core(typingctx: Any) -> Any:
    """Let other threads run where there are more of them than cores (POSIX)."""

    def build(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> Any:
        b.call(function(b, "sched_yield", I32), [])
        return context.get_dummy_value()

    return types.void(), build


@njit(cache=True, nogil=True)
def meet(counter, n):  # type: ignore[no-untyped-def]
    """Count up, and go on once the count is ``n``: the number of threads, times how often they have met with this."""
    count_up(counter)
    looks = 0
    while current(counter) < n:
        looks += 1
        if looks % SPINS == 0:
            offer_core()
