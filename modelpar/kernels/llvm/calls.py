"""Calls of compiled functions by address.

numba links a function that another one calls into it and compiles it again there, which takes as long as the first
time: four kernels that five loops can choose among would be compiled five times.  By address each is compiled once, and
only if it is needed.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.typing import Signature
from numba.extending import intrinsic


def address_of(function: Any, signature: Signature) -> int:
    """Return the address of a function that numba has compiled for this signature, or compiles now.

    It is valid as long as the function exists.
    """
    function.compile(signature.args)
    compiled = function.overloads[signature.args]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))


def caller(signature: Signature) -> Any:
    """Return the intrinsic ``call(address, arguments)`` of functions with this signature; arguments: a tuple.

    Such functions raise no exceptions.  Read-only arrays are taken in place of writable ones.
    """

    @intrinsic
    def call(typingctx: Any, address: Any, arguments: Any) -> Any:
        if len(arguments) != len(signature.args):
            raise TypeError(f"{len(arguments)} arguments, but {signature} is called")

        def build(context: Any, b: Any, own: Any, args: Any) -> Any:
            values = []
            given = zip(cgutils.unpack_tuple(b, args[1]), own.args[1], signature.args, strict=True)
            for value, kind, wanted in given:
                alike = isinstance(kind, types.Array) and kind.copy(readonly=False) == wanted.copy(readonly=False)
                values.append(value if alike else context.cast(b, value, kind, wanted))
            convention = context.call_conv
            kind = convention.get_function_type(signature.return_type, signature.args)
            function = b.inttoptr(args[0], kind.as_pointer())
            return convention.call_function(b, function, signature.return_type, signature.args, values)[1]

        return signature.return_type(types.intp, arguments), build

    return call
